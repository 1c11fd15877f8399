"""Tables for the page: every cell, streams, claims."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.axes import axis_text
from src.comparison.tables import coordinate, in_order, varying_axes
from src.comparison.text_table import TextTable
from src.comparison.units import unit_of
from src.comparison.verdicts import INCONCLUSIVE, CellVerdict, by_pair, format_p

LEAST = float("-inf")


@dataclass(frozen=True, kw_only=True, slots=True)
class TableField:
    """One field of a table: its text and its sort key (a number, or the text)."""

    text: str
    sort: float | str = ""
    kind: str = ""
    """CSS class: ``number``, ``place`` or that of a winner or verdict."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Headings, each with how to sort (``number`` or ``text``), and rows."""

    heads: tuple[tuple[str, str], ...]
    rows: tuple[tuple[TableField, ...], ...]


def number(text: str, value: float | None) -> TableField:
    """A numeric field; undefined values sort first."""
    return TableField(text=text, sort=LEAST if value is None else value, kind="number")


def winner_class(verdict: CellVerdict) -> str:
    """The CSS class of a verdict's winner."""
    return "wins-a" if verdict.winner == verdict.a else "wins-b" if verdict.winner == verdict.b else "open"


def cells_table(verdicts: Sequence[CellVerdict]) -> Table:
    """One row for each cell and pair of regimes; `too_few_seeds` explains missing p-values once for all rows."""
    axes, pairs = varying_axes(verdicts), list(by_pair(verdicts))
    unit = unit_of(verdicts[0].metric)
    percent = f", {unit.of_values}" if unit.of_values else ""
    points = f", {unit.of_differences}" if unit.of_differences else ""
    single = len(pairs) == 1
    difference = " − ".join(pairs[0]) if single else "a − b"
    heads = [(axis, "number") for axis in axes] + ([] if single else [("a − b", "text")])
    heads += [("winner", "text"), (f"{difference}{points}", "number")]
    heads += [(name, "number") for name in ("95 % interval", "p (Holm)", "n")]
    heads += [(f"{name}{percent}", "number") for name in (pairs[0] if single else ("a", "b"))] + [("remarks", "text")]
    order = {axis: {axis_text(value): k for k, value in enumerate(values)} for axis, values in axes.items()}
    body = []
    for verdict in in_order(verdicts):
        levels = zip(axes, level_texts(verdict, list(axes)), strict=True)
        fields = [TableField(text=text, sort=float(order[axis].get(text, -1)), kind="place") for axis, text in levels]
        fields += [] if single else [TableField(text=f"{verdict.a} − {verdict.b}")]
        reason = [verdict.reason] if verdict.winner == INCONCLUSIVE else []
        fields += [
            TableField(text=verdict.winner, kind=winner_class(verdict)),
            number(unit.difference(verdict.difference), verdict.difference),
            number(unit.interval(verdict.ci_low, verdict.ci_high), verdict.ci_low),
            number(format_p(verdict.p_holm), 2.0 if verdict.p_holm is None else verdict.p_holm),
            number(str(verdict.n), verdict.n),
            *(number(unit.value(mean), mean) for mean in (verdict.mean_a, verdict.mean_b)),
            TableField(text="; ".join([*reason, *verdict.notes])),
        ]
        body.append(tuple(fields))
    if not any(row[-1].text for row in body):
        heads, body = heads[:-1], [row[:-1] for row in body]
    return Table(heads=tuple(heads), rows=tuple(body))


def too_few_seeds(verdicts: Sequence[CellVerdict]) -> str:
    """Why rows have no p-value: too few seeds for the number of comparisons; empty if all have one."""
    reasons = [verdict.reason for verdict in verdicts if verdict.reason.startswith("too few seeds")]
    if not reasons:
        return ""
    n_rows = "one row" if len(reasons) == 1 else f"{len(reasons):,} rows"
    return f"In {n_rows} p is left out, for no result could make it small: {reasons[0]}."


def text_table(table: TextTable) -> Table:
    """A table of texts, e.g. the accuracy matrix of a stream, for the page."""
    kinds = ["text" if letter == "l" else "number" for letter in table.align]
    css = ["" if kind == "text" else kind for kind in kinds]
    body = [tuple(TableField(text=t, kind=k) for t, k in zip(row, css, strict=True)) for row in table.rows]
    return Table(heads=tuple(zip(table.heads, kinds, strict=True)), rows=tuple(body))


def claims_table(path: Path) -> Table | None:
    """The verdicts of ``claims.json`` (a list of objects); None without such a file."""
    claims: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    texts, numbers = ("claim", "data", "predicted"), ("effect", "95 % interval", "p", "n")
    heads = [*((name, "text") for name in texts), *((name, "number") for name in numbers), ("verdict", "text")]
    body = []
    for claim in claims:
        effect, low, high = (claim.get(key) for key in ("effect", "ci_low", "ci_high"))
        verdict = str(claim.get("verdict", ""))
        body.append(
            (
                *(TableField(text=str(claim.get(key, ""))) for key in ("id", "data", "predicted")),
                number("-" if effect is None else f"{effect:+.3g}", effect),
                number("-" if low is None or high is None else f"[{low:+.3g}, {high:+.3g}]", low),
                number(format_p(claim.get("p")), claim.get("p")),
                number(str(claim.get("n", "-")), claim.get("n")),
                TableField(text=verdict, kind=verdict if verdict in ("supported", "refuted") else "open"),
            )
        )
    return Table(heads=tuple(heads), rows=tuple(body)) if body else None


def level_texts(verdict: CellVerdict, axes: Sequence[str]) -> tuple[str, ...]:
    """The cell's levels on some axes, as texts."""
    return tuple(axis_text(coordinate(verdict, axis)) for axis in axes)
