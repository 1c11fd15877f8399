"""Tables of what is kept and of what is new: forgetting, transfer and the accuracy matrix R[i, j] of each regime on
streams of more than two data sets; accuracy on old and on new classes.

`src.evaluation.matrix` defines the metrics. A metric that a regime lacks (combined has no forgetting) is "-", never 0.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from src.comparison.pairing import Records, RunRecord, by_cell
from src.comparison.tables import in_order, level_texts, varying_axes
from src.comparison.text_table import TextTable
from src.comparison.units import unit_of
from src.comparison.verdicts import judge

METRICS = ("average_accuracy", "learning_accuracy", "backward_transfer", "forgetting", "forward_transfer")
"""Metrics of a run that derive from its accuracy matrix."""
LEGEND = (
    "Mean ± standard deviation over seeds; differences are paired by seed, with uncorrected 95 % intervals (from 6 "
    "seeds). Average accuracy: over all data sets after the last stage. Learning accuracy: on each data set right "
    "after its stage. Backward transfer: final accuracy minus learning accuracy. Forgetting: best earlier accuracy "
    "minus final accuracy. Forward transfer: accuracy just before a data set's stage minus that of the untrained "
    "network."
)


def transfer_tables(records: Records, labels: Sequence[str]) -> list[TextTable]:
    """The metrics of every regime and pair of regimes, then R of each cell and regime; none for two data sets."""
    runs = tuple(run for run in records.runs if run.metric("average_accuracy") is not None)
    if not runs:
        return []
    axes = varying_axes(runs)
    rows: list[tuple[str, ...]] = []
    matrices = []
    for group in by_cell(in_order(runs)).values():
        levels = level_texts(group[0], axes)
        for label in labels:
            own = [run for run in group if run.regime == label]
            if own:
                rows.append((*levels, label, *(_mean_and_deviation(own, name) for name in METRICS), str(len(own))))
            if (matrix := mean_matrix(own)) is not None:
                suffix = "".join(f", {name} {text}" for name, text in zip(axes, levels, strict=True))
                matrices.append(_matrix_table(f"R of {label}{suffix}: accuracy, %", matrix))
        for verdicts in zip(*(judge(Records(runs=tuple(group)), labels, name) for name in METRICS), strict=True):
            if n := verdicts[0].n:
                texts = (unit_of(v.metric).estimate(v.difference, v.ci_low, v.ci_high) for v in verdicts)
                rows.append((*levels, f"{verdicts[0].a} - {verdicts[0].b}", *texts, str(n)))
    heads = (*axes, "regime", *(name.replace("_", " ") for name in METRICS), "n")
    align = "l" * (len(axes) + 1) + "r" * (len(METRICS) + 1)
    title = "Forgetting and transfer: accuracies in %, the rest in points"
    return [TextTable(title=title, heads=heads, rows=tuple(rows), align=align), *matrices]


def _mean_and_deviation(runs: Sequence[RunRecord], name: str) -> str:
    values = np.array([value for run in runs if (value := run.metric(name)) is not None])
    unit = unit_of(name)
    if not len(values):
        return "-"
    mean = (unit.value if "accuracy" in name else unit.difference)(float(values.mean()))
    return mean if len(values) == 1 else f"{mean} ± {unit.value(float(values.std(ddof=1)))}"


def mean_matrix(runs: Sequence[RunRecord]) -> NDArray[np.float64] | None:
    """R [stages, data sets], averaged over the finished runs of one regime in one cell; NaN where undefined."""
    matrices = [np.array(run.result["accuracy_matrix"], np.float64) for run in runs if not run.diverged]
    return np.mean(matrices, axis=0) if matrices else None


def _matrix_table(title: str, matrix: NDArray[np.float64]) -> TextTable:
    texts = [["-" if np.isnan(value) else f"{100 * value:.1f}" for value in row] for row in matrix]
    rows = tuple((f"after stage {stage}", *row) for stage, row in enumerate(texts, start=1))
    heads = ("", *(f"d{part}" for part in range(1, matrix.shape[1] + 1)))
    return TextTable(title=title, heads=heads, rows=rows, align="l" + "r" * matrix.shape[1])


def markdown(tables: Sequence[TextTable]) -> str:
    """The legend and all tables as a page."""
    return "\n".join([LEGEND + "\n", *(table.markdown() for table in tables)])


CLASS_COLUMNS = {
    "test/old/accuracy": "old classes %",
    "test/new/accuracy": "new classes %",
    "harmonic_accuracy": "harmonic mean %",
}
"""Metric of a run -> its heading."""


def classes_table(runs: Sequence[RunRecord], labels: Sequence[str]) -> TextTable | None:
    """Means over the seeds that trained; None if no run has classes that Dataset 1 lacks."""
    runs = [run for run in runs if run.metric("harmonic_accuracy") is not None and not run.collapsed]
    if not runs:
        return None
    axes, rows = varying_axes(runs), []
    for group in by_cell(in_order(runs)).values():
        for label in labels:
            own = [run for run in group if run.regime == label]
            found = {name: [v for run in own if (v := run.metric(name)) is not None] for name in CLASS_COLUMNS}
            if all(found.values()):
                means = (unit_of(name).value(statistics.mean(values)) for name, values in found.items())
                rows.append((*level_texts(group[0], axes), label, *means, str(len(own))))
    heads = (*axes, "regime", *CLASS_COLUMNS.values(), "n")
    align = "r" * len(axes) + "l" + "r" * (len(CLASS_COLUMNS) + 1)
    return TextTable(heads=heads, rows=tuple(rows), align=align, title="Accuracy on old and on new classes")
