"""Accuracy on the classes of Dataset 1 and on those that are new: a row for each cell and regime."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from src.comparison.pairing import RunRecord, by_cell
from src.comparison.tables import in_order, level_texts, varying_axes
from src.comparison.text_table import TextTable
from src.comparison.units import unit_of

COLUMNS = {
    "test/old/accuracy": "old classes %",
    "test/new/accuracy": "new classes %",
    "harmonic_accuracy": "harmonic mean %",
}
"""Metric of a run -> its heading."""


def classes_table(runs: Sequence[RunRecord], labels: Sequence[str]) -> TextTable | None:
    """Means over the seeds that trained; None if no run has classes that Dataset 1 lacks."""
    runs = [run for run in runs if run.metric("harmonic_accuracy") is not None]
    if not runs:
        return None
    axes, rows = varying_axes(runs), []
    for group in by_cell(in_order(runs)).values():
        for label in labels:
            own = [run for run in group if run.regime == label and not run.collapsed]
            values = [[value for run in own if (value := run.metric(name)) is not None] for name in COLUMNS]
            means = [unit_of(name).value(statistics.mean(v)) for name, v in zip(COLUMNS, values, strict=True) if v]
            if len(means) == len(COLUMNS):
                rows.append((*level_texts(group[0], axes), label, *means, str(len(own))))
    heads = (*axes, "regime", *COLUMNS.values(), "n")
    align = "r" * len(axes) + "l" + "r" * (len(COLUMNS) + 1)
    return TextTable(heads=heads, rows=tuple(rows), align=align, title="Accuracy on old and on new classes")
