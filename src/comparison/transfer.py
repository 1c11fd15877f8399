"""Streams of more than two data sets: what each regime keeps and carries over, and its accuracy matrix R[i, j].

Definitions are those of `src.evaluation.matrix`. What a regime has not (combined has no forgetting) is "-", never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from src.comparison.pairing import Axis, Records, RunRecord, by_cell
from src.comparison.tables import axis_order, axis_text, varying_axes
from src.comparison.units import unit_of
from src.comparison.verdicts import judge

FIGURES = ("average_accuracy", "learning_accuracy", "backward_transfer", "forgetting", "forward_transfer")
"""Of a run, from its accuracy matrix."""
IN_WORDS = (
    "Over seeds: mean ± standard deviation; differences of paired seeds with 95 % intervals, not corrected for their number "
    "(6 seeds or more). Average accuracy: over the data sets, at the end. Learning accuracy: on each right after its stage. "
    "Backward transfer: the end less right after its stage; forgetting: the best before less the end. Forward transfer: just "
    "before its stage, less the untrained network."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table as texts; the first `n_words` columns are words, the others numbers."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_words: int

    def markdown(self) -> str:
        """With its title above, ending in a newline."""
        rule = ["---" if k < self.n_words else "---:" for k in range(len(self.heads))]
        lines = [self.heads, rule, *self.rows]
        table = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
        return f"**{self.title}**\n\n{table}"


def grids(records: Records, labels: Sequence[str]) -> list[Grid]:
    """The figures of every regime and of every two, then R of each cell and regime; nothing for two data sets."""
    runs = [run for run in records.runs if run.metric("average_accuracy") is not None]
    if not runs:
        return []
    verdicts = judge(Records(runs=tuple(runs)), labels, FIGURES[0])
    axes = varying_axes(verdicts) if verdicts else {}
    cells = by_cell(sorted(runs, key=lambda run: [axis_order(run.axes.get(name, "-")) for name in axes]))
    places = {cell: tuple(_place(some[0], name) for name in axes) for cell, some in cells.items()}
    found = [_figures(cells, places, labels, tuple(axes))]
    for cell, some in cells.items():
        for label in labels:
            matrix = mean_matrix([run for run in some if run.regime == label])
            if matrix is not None:
                where = "".join(f", {name} {text}" for name, text in zip(axes, places[cell], strict=True))
                found.append(_matrix(f"R of {label}{where}: accuracy, %", matrix))
    return found


def _place(run: RunRecord, name: str) -> str:
    value: Axis = run.cell[:8] if name == "cell" else run.axes.get(name, "-")
    return axis_text(value)


def _figures(
    cells: dict[str, list[RunRecord]], places: dict[str, tuple[str, ...]], labels: Sequence[str], axes: tuple[str, ...]
) -> Grid:
    rows = []
    for cell, some in cells.items():
        for label in labels:
            own = [run for run in some if run.regime == label]
            if own:
                rows.append((*places[cell], label, *(_spread(own, name) for name in FIGURES), str(len(own))))
        records = Records(runs=tuple(some))
        for a, b in combinations(labels, 2):
            of_figure = [judge(records, [a, b], name)[0] for name in FIGURES]
            if of_figure[0].n:
                texts = [_difference(one.metric, one.difference, one.ci_low, one.ci_high) for one in of_figure]
                rows.append((*places[cell], f"{a} - {b}", *texts, str(of_figure[0].n)))
    heads = (*axes, "regime", *(name.replace("_", " ") for name in FIGURES), "n")
    title = "Kept and carried over: accuracies in %, the rest in points"
    return Grid(title=title, heads=heads, rows=tuple(rows), n_words=len(axes) + 1)


def _spread(runs: Sequence[RunRecord], name: str) -> str:
    values = np.array([value for run in runs if (value := run.metric(name)) is not None])
    unit = unit_of(name)
    if not len(values):
        return "-"
    mean = unit.value(float(values.mean())) if "accuracy" in name else unit.difference(float(values.mean()))
    return mean if len(values) == 1 else f"{mean} ± {unit.value(float(values.std(ddof=1)))}"


def _difference(name: str, value: float | None, low: float | None, high: float | None) -> str:
    unit = unit_of(name)
    return unit.difference(value) if low is None else f"{unit.difference(value)} {unit.interval(low, high)}"


def mean_matrix(runs: Sequence[RunRecord]) -> NDArray[np.float64] | None:
    """R[i, j], mean over the runs of one regime in one cell: [stages, data sets], NaN where one has none; None without a
    finished run."""
    matrices = [np.array(run.result["accuracy_matrix"], np.float64) for run in runs if not run.diverged]
    return np.mean(matrices, axis=0) if matrices else None


def _matrix(title: str, matrix: NDArray[np.float64]) -> Grid:
    rows = []
    for stage, row in enumerate(matrix, start=1):
        rows.append((f"after stage {stage}", *("-" if np.isnan(value) else f"{100 * value:.1f}" for value in row)))
    heads = ("", *(f"d{part + 1}" for part in range(matrix.shape[1])))
    return Grid(title=title, heads=heads, rows=tuple(rows), n_words=1)


def markdown(found: Sequence[Grid]) -> str:
    """All of them as a page."""
    return "\n".join([IN_WORDS + "\n", *(grid.markdown() for grid in found)])
