"""The tables of the page: the text tables of commands with a sort key and a CSS class for each field."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from src.axes import AxisValue, axis_order, axis_text
from src.claims.table import ALIGN, HEADS, value_texts
from src.comparison.tables import (
    coordinate,
    difference_elsewhere,
    in_order,
    independent_axes,
    other_test_sets,
    remarks,
    sweep_table,
)
from src.comparison.text_table import TextTable
from src.comparison.units import format_p, unit_of
from src.comparison.verdicts import INCONCLUSIVE, TOO_FEW, CellVerdict
from src.report.maps import averaged

NUMBER = re.compile(r"[-+<]?(\d[\d,]*\.?\d*)")


class TableField(NamedTuple):
    """One field of a table."""

    text: str
    sort: int
    """Its rank in its column: numbers first, "-" last."""
    kind: str
    """CSS class: ``number``, that of a winner or that of a verdict."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageTable:
    """Headings, each with how to sort (``number`` or ``text``), and rows."""

    heads: tuple[tuple[str, str], ...]
    rows: tuple[tuple[TableField, ...], ...]


def page_table(table: TextTable, css: Mapping[int, Sequence[str]] | None = None) -> PageTable:
    """A table of texts for the page. `css`: column -> the CSS class of each of its fields, if it has its own."""
    kinds = ["text" if letter == "l" else "number" for letter in table.align]
    columns = []
    for number, texts in enumerate(zip(*table.rows, strict=True)):
        ranks = {key: rank for rank, key in enumerate(sorted(set(map(sort_key, texts))))}
        classes = (css or {}).get(number, ["number" if kinds[number] == "number" else ""] * len(texts))
        fields = zip(texts, classes, strict=True)
        columns.append([TableField(text.replace("**", ""), ranks[sort_key(text)], kind) for text, kind in fields])
    return PageTable(heads=tuple(zip(table.heads, kinds, strict=True)), rows=tuple(zip(*columns, strict=True)))


def sort_key(text: str) -> tuple[int, tuple[int, str, float]]:
    """Sort key of a field: the order of an axis, by the first number of fields such as "+1.2 [0.5, 1.9]"."""
    value: AxisValue = text
    if match := NUMBER.match(text):
        value = float(match[0].replace(",", "").replace("<", "").replace("+", ""))
    return text == "-", axis_order(value)


def winner_class(verdict: CellVerdict) -> str:
    """The CSS class of a verdict's winner."""
    return "wins-a" if verdict.winner == verdict.a else "wins-b" if verdict.winner == verdict.b else "open"


def cells_table(verdicts: Sequence[CellVerdict]) -> PageTable:
    """`sweep_table` with what is to say of single rows; `cell_notes` explains its words."""
    table, ordered = sweep_table(verdicts), in_order(verdicts)
    css = {len(table.heads) - 1: [winner_class(verdict) for verdict in ordered]}
    whys = [verdict.reason if verdict.winner == INCONCLUSIVE else "" for verdict in ordered]
    further = ["; ".join(filter(None, (why, *own.notes))) for why, own in zip(whys, ordered, strict=True)]
    if any(further):
        rows = tuple((*row, remark) for row, remark in zip(table.rows, further, strict=True))
        css[len(table.heads)] = ["remark"] * len(further)
        table = replace(table, heads=(*table.heads, "remarks"), rows=rows, align=f"{table.align}l")
    return page_table(table, css)


def cell_notes(verdicts: Sequence[CellVerdict]) -> list[str]:
    """What the words and columns of `cells_table` mean, each once for all rows."""
    return remarks([replace(own, reason=own.reason if own.winner == TOO_FEW else "", notes=()) for own in verdicts])


def largest(verdicts: Sequence[CellVerdict], most_cells: int) -> list[CellVerdict]:
    """The verdicts of the `most_cells` cells with the largest differences; all if there are not more cells."""
    by_size = sorted(verdicts, key=lambda own: (-abs(own.difference or 0.0), own.cell))
    kept = set(list(dict.fromkeys(own.cell for own in by_size))[:most_cells])
    return [own for own in verdicts if own.cell in kept]


def levels_table(groups: Sequence[Sequence[CellVerdict]]) -> PageTable | None:
    """The average difference at every level of every axis, one row for each contrast; None where nothing varies.

    `groups`: the verdicts of each contrast.
    """
    rows, css = [], []
    names = other_test_sets([own for group in groups for own in group])
    for group in groups:
        unit = unit_of(group[0].metric)
        for axis, levels in independent_axes(group).items():
            means = {own.axes[axis]: own for own in averaged(group, axis)} if axis != "cell" else {}
            for level in (level for level in levels if level in means):
                own, cells = means[level], [v for v in group if coordinate(v, axis) == level]
                wins = [str(sum(cell.winner == name for cell in cells)) for name in (own.a, own.b)]
                numbers = (unit.difference(own.difference), unit.interval(own.ci_low, own.ci_high))
                texts = (axis, axis_text(level), f"{own.a} - {own.b}", *numbers, format_p(own.p_holm), str(own.n))
                others = [difference_elsewhere(own.elsewhere.get(name)) for name in names]
                rows.append((*texts, *others, str(len(cells)), *wins))
                css.append(winner_class(own))
    if not rows:
        return None
    difference = f"difference{unit_of(groups[0][0].metric).points}"
    first = ("axis", "level", "a - b", difference, "95 % interval", "p (Holm)", "n")
    heads = (*first, *names, "cells", "a wins", "b wins")
    return page_table(TextTable(heads=heads, rows=tuple(rows), align=f"lll{'r' * (len(heads) - 3)}"), {3: css})


def claims_table(path: Path) -> PageTable | None:
    """The verdicts of ``claims.json``, one row per claim; None without such a file."""
    claims = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    rows = [(one["id"], one["data"], one["predicted"], *value_texts(one), one["verdict"]) for one in claims]
    kinds = [one["verdict"] if one["verdict"] in ("supported", "refuted") else "open" for one in claims]
    table = TextTable(heads=HEADS, rows=tuple(rows), align=ALIGN)
    return page_table(table, {len(HEADS) - 1: kinds}) if rows else None
