"""The tables of a sweep: one row for each cell and pair of regimes, on the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from src.axes import AxisValue, axis_heading, axis_order, axis_rank, axis_text
from src.comparison.pairing import RunRecord, grouped
from src.comparison.sentences import WHERE
from src.comparison.text_table import TextTable
from src.comparison.units import format_p, name_of, unit_of
from src.comparison.verdicts import BALANCED, EQUIVALENT, INCONCLUSIVE, TOO_FEW, CellVerdict, by_pair, default_metric

if TYPE_CHECKING:
    from rich.table import Table


Cell = TypeVar("Cell", CellVerdict, RunRecord)
MARKS = {"barring collapses": "c", "exploratory": "e"}
"""What follows a winner, and its letter in a narrow table."""
CURE = "Collapsed runs often train with a tenth of optimizer.lr; tune=equal finds a rate for each regime."


def varying_axes(verdicts: Sequence[CellVerdict] | Sequence[RunRecord]) -> dict[str, list[AxisValue]]:
    """Axes with more than one level, and their levels in order.

    If these do not distinguish all cells (another setting was swept), the cell's hash is an axis too.
    """
    levels: dict[str, set[AxisValue]] = {}
    for name, value in (item for verdict in verdicts for item in verdict.axes.items()):
        levels.setdefault(name, set()).add(value)
    varying = {name: sorted(values, key=axis_order) for name, values in levels.items() if len(values) > 1}
    cells = {verdict.cell for verdict in verdicts}
    if len({tuple(verdict.axes.get(name) for name in varying) for verdict in verdicts}) < len(cells):
        varying["cell"] = sorted(cell[:8] for cell in cells)
    return varying


def independent_axes(verdicts: Sequence[CellVerdict] | Sequence[RunRecord]) -> dict[str, list[AxisValue]]:
    """The varying axes without those that follow from the others, such as all but one setting of a random search."""
    axes = varying_axes(verdicts)

    def n_distinct(names: Iterable[str]) -> int:
        names = [name for name in names if name != "cell"]
        return len({tuple(verdict.axes.get(name) for name in names) for verdict in verdicts})

    n_all = n_distinct(axes)
    for name in sorted(axes, key=lambda name: (-axis_rank(name), -len(axes[name]))):
        if name != "cell" and n_distinct(other for other in axes if other != name) == n_all:
            del axes[name]
    return axes


def coordinate(cell: CellVerdict | RunRecord, axis: str) -> AxisValue:
    """The value of a cell on an axis of `varying_axes`."""
    return cell.cell[:8] if axis == "cell" else cell.axes.get(axis, "-")


def level_texts(cell: CellVerdict | RunRecord, axes: Iterable[str]) -> tuple[str, ...]:
    """The levels of a cell on some axes, as texts."""
    return tuple(axis_text(coordinate(cell, axis)) for axis in axes)


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """Sorted by the varying axes, the last one fastest."""
    axes = varying_axes(cells)
    return sorted(cells, key=lambda cell: [axis_order(coordinate(cell, axis)) for axis in axes])


def sweep_table(verdicts: Sequence[CellVerdict]) -> TextTable:
    """One row a verdict, sorted by the varying axes; a winner is emphasised.

    If a run collapsed, a column has the number of collapsed runs of both regimes; means are those of the paired seeds.
    """
    unit = unit_of(verdicts[0].metric if verdicts else "test/union/accuracy")
    axes, pairs = varying_axes(verdicts), list(by_pair(verdicts))
    is_single = len(pairs) == 1
    a, b = pairs[0] if is_single else ("a", "b")
    columns = [(axis, "r") for axis in axes]
    for name in (a, b):
        columns += [*([] if is_single else [(name, "l")]), (f"{name} {unit.of_values}".rstrip(), "r")]
    has_collapsed = any(any(verdict.collapsed) for verdict in verdicts)
    columns += [("collapsed", "r")] if has_collapsed else []
    is_any_stop = any(verdict.any_stop for verdict in verdicts)
    columns += [("decided by", "l")] if is_any_stop else []
    has_margin = any(verdict.margin for verdict in verdicts)
    columns += [("no worse", "l")] if has_margin else []
    test_sets = other_test_sets(verdicts)
    columns += [(name, "r") for name in test_sets]
    columns += [(f"{a} - {b}{unit.points}", "r"), ("95 % interval", "r"), ("p (Holm)", "r"), ("n", "r"), ("wins", "l")]
    rows = []
    for verdict in in_order(verdicts):
        means = [unit.value(verdict.mean_a), unit.value(verdict.mean_b)]
        sides = means if is_single else [verdict.a, means[0], verdict.b, means[1]]
        sides += [" / ".join(map(str, verdict.collapsed))] if has_collapsed else []
        sides += [verdict.decided_by] if is_any_stop else []
        sides += [no_worse_text(verdict)] if has_margin else []
        sides += [difference_elsewhere(verdict.elsewhere.get(name)) for name in test_sets]
        difference = [unit.difference(verdict.difference), unit.interval(verdict.ci_low, verdict.ci_high)]
        winner = f"**{verdict.winner}**" if verdict.certain else verdict.winner
        winner += " (barring collapses)" if verdict.caveat else ""
        winner += " (exploratory)" if verdict.exploratory and verdict.certain else ""
        tail = [*difference, format_p(verdict.p_holm), str(verdict.n), winner]
        rows.append((*level_texts(verdict, axes), *sides, *tail))
    heads, align = zip(*columns, strict=True)
    return TextTable(heads=heads, rows=tuple(rows), align="".join(align))


def no_worse_text(verdict: CellVerdict) -> str:
    """The regimes that are no worse than the other by more than the margin."""
    return "both" if len(verdict.no_worse) == 2 else next(iter(verdict.no_worse), "-")


def other_test_sets(verdicts: Sequence[CellVerdict]) -> list[str]:
    """The names of the columns with differences on other test sets than the union."""
    return list(dict.fromkeys(name for verdict in verdicts for name in verdict.elsewhere))


def difference_elsewhere(verdict: CellVerdict | None) -> str:
    """The difference on another test set, with a star if it is certain."""
    if verdict is None:
        return "-"
    return unit_of(verdict.metric).difference(verdict.difference) + ("*" if verdict.certain else "")


def terminal_table(verdicts: Sequence[CellVerdict], *, width: int = 120, max_rows: int = 60) -> Table:
    """`sweep_table` for a terminal of `width` columns; a caption counts the rows beyond `max_rows`.

    A narrow terminal gets shorter headings, which the caption explains, and if those do not suffice, the interval
    below the difference, and then no means and no balanced accuracy.
    """
    from rich.console import Console

    full, pairs = sweep_table(verdicts), list(by_pair(verdicts))
    means = {f"{name} {unit_of(verdicts[0].metric).of_values}".rstrip() for name in "ab"}
    for step in range(5):
        narrow = step > 0
        shown = replace(full, rows=full.rows[:max_rows])
        if step == 4:
            shown = shown.without({BALANCED, *means} if len(pairs) > 1 else {BALANCED})
        table = _compact(shown, pairs, narrow=narrow, short=step > 1, stacked=step > 2)
        *_, difference, p, n, _ = table.heads
        numbers = [head for head, letter in zip(table.heads, table.align, strict=True) if letter == "r"]
        drawn = table.terminal(
            padding=0 if narrow else 1,
            no_wrap=[p, n, *([difference] if narrow else []), *(numbers if len(pairs) > 1 else [])],
            last_style=lambda text: "" if text.startswith("**") else "yellow" if text == INCONCLUSIVE else "dim",
        )
        if Console(width=10_000).measure(drawn).maximum <= width:
            break
    captions = []
    if narrow and len(pairs) == 1:
        (a, b), points = pairs[0], unit_of(verdicts[0].metric).of_differences
        captions = [f"a: {a}, b: {b}", *([f"a - b in {points}"] if points else [])]
    if narrow:
        used = [text for text in MARKS if any(f"({text})" in row[-1] for row in full.rows)]
        captions += [f"{MARKS[text]}: {text}" for text in used]
    if step == 4:
        captions.append("all columns are in table.md")
    if len(full.rows) > max_rows:
        captions.append(f"{len(full.rows) - max_rows:,} more rows in the CSV")
    drawn.caption, drawn.caption_justify = "; ".join(captions) or None, "left"
    return drawn


def _compact(
    table: TextTable, pairs: Sequence[tuple[str, str]], *, narrow: bool, short: bool, stacked: bool
) -> TextTable:
    """The same table with difference and interval in one column."""
    *first, difference, _, p, n, wins = table.heads
    gap = "\n" if stacked else " "
    if narrow:
        first, difference = [axis_heading(head).replace("(", "\n(") for head in first], "a - b"
    if short:
        sides = [(regime, side) for pair in pairs[:1] for regime, side in zip(pair, "ab", strict=True)]
        heads = {BALANCED: "bal.", "collapsed": "coll."} | {
            f"{name}{unit}": f"{side}{unit}" for name, side in sides for unit in ("", " %")
        }
        first = [heads.get(head, head) for head in first]
    width = max((len(row[-4]) for row in table.rows), default=0)
    rows = []
    for *cells, value, interval, p_value, n_seeds, winner in table.rows:
        cells = [*cells, f"{value}{gap}{interval:>{width}}", p_value, n_seeds]
        rows.append(
            (*(cell.replace("(", "\n(") for cell in cells), _short_winner(winner, gap)) if narrow else (*cells, winner)
        )
    last = (f"{difference}{gap}[95 %]", p.removesuffix(" (Holm)"), n, wins)
    return TextTable(heads=(*first, *last), rows=tuple(rows), align=f"{table.align[: len(first)]}rrrl")


def _short_winner(winner: str, gap: str) -> str:
    """ "combined (barring collapses) (exploratory)" is "combined (c, e)".

    `gap` precedes what may stand on a second line.
    """
    marks = ", ".join(mark for text, mark in MARKS.items() if f"({text})" in winner)
    for text in MARKS:
        winner = winner.replace(f" ({text})", "")
    name = winner.replace("(", "\n(").replace(" seeds", f"{gap}seeds")
    return f"{name}{gap}({marks})" if marks else name


def means_table(runs: Sequence[RunRecord]) -> Table:
    """Mean, minimum and maximum over seeds for every cell and regime, for runs without a comparison."""
    metric = default_metric(runs)
    unit, axes = unit_of(metric), varying_axes(runs)
    rows = []
    for (_, regime), group in grouped(in_order(runs), lambda run: (run.cell, run.regime)).items():
        values = [value for run in group if (value := run.metric(metric)) is not None]
        statistic = [unit.value(of(values) if values else None) for of in (statistics.mean, min, max)]
        rows.append((*level_texts(group[0], axes), regime, *statistic, str(len(values))))
    heads = (*axes, "regime", f"{name_of(metric)} {unit.of_values}".rstrip(), "minimum", "maximum", "n")
    return TextTable(heads=heads, rows=tuple(rows), align="r" * len(axes) + "lrrrr").terminal()


def csv_table(verdicts: Sequence[CellVerdict]) -> str:
    """The verdicts for a spreadsheet: every axis, values in the metric's unit, p with and without correction."""
    names = list(dict.fromkeys(name for verdict in verdicts for name in verdict.axes))
    values, corrected = ("mean_a", "mean_b", "difference", "ci_low", "ci_high"), ("p", "p_holm")
    has_margin = any(verdict.margin for verdict in verdicts)
    rows = [("cell", *names, "metric", "a", "b", *values, "unit", *corrected, "n", "winner", "reason", "notes")]
    rows[0] += ("no_worse",) if has_margin else ()
    for verdict in in_order(verdicts):
        unit = unit_of(verdict.metric)
        numbers = [getattr(verdict, name) for name in values]
        rows.append(
            (
                verdict.cell,
                *(axis_text(verdict.axes[name]) if name in verdict.axes else "" for name in names),
                *(verdict.metric, verdict.a, verdict.b),
                *("" if value is None else f"{unit.scale * value:.{unit.decimals + 2}f}" for value in numbers),
                unit.of_differences or "as logged",
                *("" if (p := getattr(verdict, name)) is None else f"{p:.6f}" for name in corrected),
                *(str(verdict.n), verdict.winner, verdict.reason, "; ".join(verdict.notes)),
                *([no_worse_text(verdict)] if has_margin else []),
            )
        )
    return csv_text(rows)


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """The rows as comma-separated values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def remarks(verdicts: Sequence[CellVerdict]) -> list[str]:
    """Remarks below the table, each once: with its row, or with the number of rows that it applies to."""
    rows: dict[str, list[CellVerdict]] = {}
    has_sentences = all(len(group) == 1 for group in by_pair(verdicts).values())
    for verdict in verdicts:
        own = verdict.reason if verdict.p_holm is None or verdict.winner == EQUIVALENT else verdict.caveat
        if has_sentences and verdict.winner in (INCONCLUSIVE, TOO_FEW):
            own = ""  # the sentence of a single cell gives the reason
        added = verdict.exploratory
        added += f": Holm over {verdict.family} of its own" if added and verdict.family else ""
        for remark in filter(None, (own, added, *verdict.notes)):
            rows.setdefault(remark, []).append(verdict)
    axes, has_pairs = varying_axes(verdicts), len(by_pair(verdicts)) > 1
    lines = []
    for remark, (first, *others) in rows.items():
        row = [f"{axis} {text}" for axis, text in zip(axes, level_texts(first, axes), strict=True)]
        row += [f"{first.a} - {first.b}"] if has_pairs else []
        lines.append(
            f"{remark} ({len(others) + 1} rows)" if others else ": ".join(filter(None, (", ".join(row), remark)))
        )
    if any(verdict.any_stop for verdict in verdicts):
        lines.append("seeds=auto: p and intervals hold at any stop")
    if any(any(verdict.collapsed) for verdict in verdicts):
        lines.append(CURE)
    if margin := next((verdict.margin for verdict in verdicts if verdict.margin), None):
        unit = unit_of(verdicts[0].metric)
        within = f"{unit.value(margin)} {unit.of_differences}".rstrip()
        lines.append(
            f"no worse: certainly by no more than {within}, after a correction of its own; another regime may win"
        )
    if names := other_test_sets(verdicts):
        better = unit_of(verdicts[0].metric).higher_is_better
        metrics = {name: own.metric for verdict in verdicts for name, own in verdict.elsewhere.items()}
        turned = [name for name in names if unit_of(metrics[name]).higher_is_better != better]
        where = ", ".join(
            f"{name}: the difference {WHERE[name]}{' (higher is better)' * (name in turned)}" for name in names
        )
        lines.append(f"{where}; *: certain after a correction of its own")
    if verdicts and not unit_of(metric := verdicts[0].metric).higher_is_better:
        return [f"Lower {name_of(metric)} is better: a negative difference favours the first regime.", *lines]
    return lines
