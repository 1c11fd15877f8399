"""The table of a sweep: one row a cell and pair of regimes, in the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.comparison.pairing import Axis, RunRecord
from src.comparison.units import name_of, unit_of
from src.comparison.verdicts import INCONCLUSIVE, CellVerdict, contrasts, format_p, metric_of

if TYPE_CHECKING:
    from rich.table import Table

SHORT = {"imbalance": "imb", "epochs": "ep"}
"""Names that make a narrow terminal's columns fit."""


def axis_order(value: Axis) -> tuple[int, str, float]:
    """Sort key for an axis that may mix numbers and words: "none", numbers, then words, ``rotate:5`` before ``rotate:30``;
    lists by their length, then ``[32]`` before ``[128]``."""
    if isinstance(value, int | float):
        return (1, "", float(value))
    if value.startswith("["):
        length = value.count(",") + (value != "[]")
        return (2, f"[{length}{re.sub('[0-9]+', lambda number: number[0].zfill(9), value)}", 0.0)
    word, _, amount = value.partition(":")
    try:
        return (2, word, float(amount))
    except ValueError:
        return (0 if value == "none" else 2, value, 0.0)


def axis_text(value: Axis) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def varying_axes(verdicts: Sequence[CellVerdict] | Sequence[RunRecord]) -> dict[str, list[Axis]]:
    """Axes with more than one level, and their levels in order.

    Where the axes do not tell two cells apart (something else was swept), the cell's hash is an axis too.
    """
    names = list(dict.fromkeys(name for verdict in verdicts for name in verdict.axes))
    levels = {
        name: sorted({verdict.axes[name] for verdict in verdicts if name in verdict.axes}, key=axis_order)
        for name in names
    }
    varying = {name: values for name, values in levels.items() if len(values) > 1}
    places = {tuple(verdict.axes.get(name) for name in varying) for verdict in verdicts}
    cells = {verdict.cell for verdict in verdicts}
    if len(places) < len(cells):
        varying["cell"] = sorted(cell[:8] for cell in cells)
    return varying


def place(verdict: CellVerdict | RunRecord, axis: str) -> Axis:
    """Where a cell lies on an axis of `varying_axes`."""
    return verdict.cell[:8] if axis == "cell" else verdict.axes.get(axis, "-")


def in_order(verdicts: Sequence[CellVerdict]) -> list[CellVerdict]:
    """Sorted by the axes that vary, the last one fastest."""
    axes = varying_axes(verdicts)
    return sorted(verdicts, key=lambda verdict: [axis_order(place(verdict, axis)) for axis in axes])


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One verdict as text: numbers with fixed decimals, in the metric's unit."""

    places: tuple[str, ...]
    a: str
    b: str
    mean_a: str
    mean_b: str
    difference: str
    interval: str
    p: str
    n: str
    winner: str
    reason: str
    notes: str


def rows(verdicts: Sequence[CellVerdict]) -> list[Row]:
    """The rows of all three forms, sorted by the axes that vary."""
    axes = varying_axes(verdicts)
    result = []
    for verdict in in_order(verdicts):
        unit = unit_of(verdict.metric)
        result.append(
            Row(
                places=tuple(axis_text(place(verdict, axis)) for axis in axes),
                a=verdict.a,
                b=verdict.b,
                mean_a=unit.value(verdict.mean_a),
                mean_b=unit.value(verdict.mean_b),
                difference=unit.difference(verdict.difference),
                interval=unit.interval(verdict.ci_low, verdict.ci_high),
                p=format_p(verdict.p_holm),
                n=str(verdict.n),
                winner=verdict.winner,
                reason=verdict.reason,
                notes="; ".join(verdict.notes),
            )
        )
    return result


def remarks(verdicts: Sequence[CellVerdict]) -> list[str]:
    """What the table's columns cannot hold, each once with the number of rows that it concerns."""
    counts: dict[str, int] = {}
    metric = verdicts[0].metric if verdicts else "test/union/accuracy"
    if not unit_of(metric).higher_is_better:
        counts[
            f"Of {name_of(metric)} the lower is the better: a negative difference speaks for the regime named first."
        ] = 1
    for verdict in verdicts:
        said = [verdict.reason] if verdict.winner == INCONCLUSIVE or verdict.p_holm is None else []
        for remark in (*said, *verdict.notes):
            counts[remark] = counts.get(remark, 0) + 1
    return [remark if count == 1 else f"{remark} ({count} rows)" for remark, count in counts.items()]


# ------------------------------------------------------------------------------------------------ three forms


def terminal_table(verdicts: Sequence[CellVerdict], *, width: int = 120, max_rows: int = 60) -> Table:
    """A rich table for a terminal of `width` columns; the rows past `max_rows` are counted, and stand in the CSV.

    Narrow terminals get shorter headings and, where even that does not fit, the interval under the difference.
    """
    from rich.console import Console

    for narrow, stacked in ((False, False), (True, False)):
        table = _terminal_table(verdicts, max_rows, narrow=narrow, stacked=stacked)
        if Console(width=10_000).measure(table).maximum <= width:
            return table
    return _terminal_table(verdicts, max_rows, narrow=True, stacked=True)


def _terminal_table(verdicts: Sequence[CellVerdict], max_rows: int, *, narrow: bool, stacked: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown, metric = rows(verdicts), verdicts[0].metric if verdicts else "test/union/accuracy"
    unit, axes, pairs = unit_of(metric), varying_axes(verdicts), list(contrasts(verdicts))
    percent = f" {unit.of_values}".rstrip()

    def label(text: str) -> str:
        return text.replace("(", "\n(") if narrow else text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0 if narrow else 1, 0, 0), show_edge=False, pad_edge=False)
    for axis in axes:
        table.add_column(SHORT.get(axis, axis) if narrow else axis, justify="right")
    if len(pairs) == 1:
        for name in pairs[0]:
            table.add_column(f"{label(name)}{percent}", justify="right", overflow="fold")
    else:
        for name in ("a", "b"):
            table.add_column(name, overflow="fold")
            table.add_column(f"{name}{percent}", justify="right", no_wrap=True)
    difference = f"{pairs[0][0]} - {pairs[0][1]}" if len(pairs) == 1 and not narrow else "a - b"
    of = f", {unit.of_differences}" if unit.of_differences and not narrow else ""
    joiner = "\n" if stacked else " "
    table.add_column(f"{difference}{of}{joiner}[95 %]", justify="right", no_wrap=narrow)
    table.add_column("p", justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("wins", overflow="fold")
    interval_width = max((len(row.interval) for row in shown), default=0)
    for row in shown[:max_rows]:
        means = (row.mean_a, row.mean_b) if len(pairs) == 1 else (label(row.a), row.mean_a, label(row.b), row.mean_b)
        apart = f"{row.difference}{joiner}{row.interval:>{interval_width}}"
        style = "bold" if row.winner in (row.a, row.b) else ("yellow" if row.winner == INCONCLUSIVE else "dim")
        cells = (*row.places, *means, apart, row.p, row.n)
        table.add_row(*(Text(cell) for cell in cells), Text(label(row.winner), style=style))
    if len(shown) > max_rows:
        table.caption = f"{len(shown) - max_rows:,} more rows in the CSV"
    return table


def means_table(runs: Sequence[RunRecord]) -> Table:
    """A rich table of runs that have none to be compared with: the mean of every cell and regime over its seeds."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    metric = metric_of(runs)
    unit, axes = unit_of(metric), varying_axes(runs)
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: [axis_order(place(run, axis)) for axis in axes]):
        groups.setdefault((run.cell, run.regime), []).append(run)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    heads = (*axes, "regime", f"{name_of(metric)} {unit.of_values}".rstrip(), "least", "most", "n")
    for head in heads:
        table.add_column(head, justify="left" if head == "regime" else "right")
    for (_, regime), some in groups.items():
        values = [value for run in some if (value := run.metric(metric)) is not None]
        figures = [unit.value(of(values) if values else None) for of in (statistics.mean, min, max)]
        where = [axis_text(place(some[0], axis)) for axis in axes]
        table.add_row(*(Text(cell) for cell in (*where, regime, *figures, str(len(values)))))
    return table


def markdown_table(verdicts: Sequence[CellVerdict]) -> str:
    """The same rows as a Markdown table, ending in a newline."""
    metric = verdicts[0].metric if verdicts else "test/union/accuracy"
    unit, axes, pairs = unit_of(metric), varying_axes(verdicts), list(contrasts(verdicts))
    percent = f" {unit.of_values}".rstrip()
    names = pairs[0] if len(pairs) == 1 else ("a", "b")
    sides = [f"{label}{percent}" for label in names] if len(pairs) == 1 else ["a", f"a{percent}", "b", f"b{percent}"]
    of = f", {unit.of_differences}" if unit.of_differences else ""
    head = [*axes, *sides, f"{' - '.join(names)}{of}", "95 % interval", "p (Holm)", "n", "wins"]
    n_words = len(axes)
    lines = [head, ["---" if i < n_words else "---:" for i in range(len(head) - 1)] + ["---"]]
    for row in rows(verdicts):
        means = [row.mean_a, row.mean_b] if len(pairs) == 1 else [row.a, row.mean_a, row.b, row.mean_b]
        winner = f"**{row.winner}**" if row.winner in (row.a, row.b) else row.winner
        lines.append([*row.places, *means, row.difference, row.interval, row.p, row.n, winner])
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def csv_table(verdicts: Sequence[CellVerdict]) -> str:
    """The same rows for a spreadsheet: every axis, numbers in the metric's unit, p with and without correction."""
    names = list(dict.fromkeys(name for verdict in verdicts for name in verdict.axes))
    head = ["cell", *names, "metric", "a", "b", "mean_a", "mean_b", "difference", "ci_low", "ci_high", "unit"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*head, "p", "p_holm", "n", "winner", "reason", "notes"])
    for verdict in in_order(verdicts):
        unit = unit_of(verdict.metric)
        decimals = unit.decimals + 2
        ends = (verdict.mean_a, verdict.mean_b, verdict.difference, verdict.ci_low, verdict.ci_high)
        numbers = ["" if end is None else f"{unit.scale * end:.{decimals}f}" for end in ends]
        p_values = ["" if p is None else f"{p:.6f}" for p in (verdict.p, verdict.p_holm)]
        places = [axis_text(verdict.axes[name]) if name in verdict.axes else "" for name in names]
        start = [verdict.cell, *places, verdict.metric, verdict.a, verdict.b, *numbers]
        end_text = [str(verdict.n), verdict.winner, verdict.reason, "; ".join(verdict.notes)]
        writer.writerow([*start, unit.of_differences or "as logged", *p_values, *end_text])
    return text.getvalue()
