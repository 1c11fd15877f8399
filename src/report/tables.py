"""The tables of the report: cells, the fairness ledger, ways to match a budget, runs without a result, claims."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.comparison.pairing import RunRecord, by_cell
from src.comparison.tables import axis_order, axis_text, coordinate, in_order, varying_axes
from src.comparison.text_table import TextTable
from src.comparison.units import unit_of
from src.comparison.verdicts import INCONCLUSIVE, CellVerdict, by_pair, format_p, overall
from src.config import Config
from src.stopping.catalog import match_order


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One field of a table: what is shown and what it is sorted by (a number, or text)."""

    text: str
    sort: float | str = ""
    kind: str = ""
    """``number``, ``place`` or a winner's class: how the page sets it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table for the page: headings (with how to sort: ``number`` or ``text``) and rows."""

    heads: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Entry, ...], ...]


def _number(text: str, value: float | None) -> Entry:
    return Entry(text=text, sort=float("-inf") if value is None else value, kind="number")


def cells_table(verdicts: Sequence[CellVerdict]) -> Table:
    """One row a cell and pair of regimes: place, winner, effect with its interval, p, n, means.

    That seeds are too few is said once for all rows, by `too_few`.
    """
    axes, pairs = varying_axes(verdicts), list(by_pair(verdicts))
    unit = unit_of(verdicts[0].metric)
    percent = f", {unit.of_values}" if unit.of_values else ""
    of = f", {unit.of_differences}" if unit.of_differences else ""
    single = len(pairs) == 1
    sides = [(f"{name}{percent}", "number") for name in (pairs[0] if single else ("a", "b"))]
    heads = [(axis, "number") for axis in axes]
    heads += [] if single else [("a − b", "text")]
    heads += [("winner", "text"), (f"{' − '.join(pairs[0]) if single else 'a − b'}{of}", "number")]
    heads += [("95 % interval", "number"), ("p (Holm)", "number"), ("n", "number"), *sides, ("remarks", "text")]
    order = {axis: {axis_text(value): k for k, value in enumerate(values)} for axis, values in axes.items()}
    rows = []
    for verdict in in_order(verdicts):
        where = [axis_text(coordinate(verdict, axis)) for axis in axes]
        entries = [
            Entry(text=text, sort=float(order[axis].get(text, -1)), kind="place")
            for axis, text in zip(axes, where, strict=True)
        ]
        entries += [] if single else [Entry(text=f"{verdict.a} − {verdict.b}")]
        kind = "wins-a" if verdict.winner == verdict.a else "wins-b" if verdict.winner == verdict.b else "open"
        entries.append(Entry(text=verdict.winner, kind=kind))
        entries.append(_number(unit.difference(verdict.difference), verdict.difference))
        entries.append(_number(unit.interval(verdict.ci_low, verdict.ci_high), verdict.ci_low))
        entries.append(_number(format_p(verdict.p_holm), 2.0 if verdict.p_holm is None else verdict.p_holm))
        entries.append(_number(str(verdict.n), float(verdict.n)))
        entries += [_number(unit.value(mean), mean) for mean in (verdict.mean_a, verdict.mean_b)]
        said = [verdict.reason] if verdict.winner == INCONCLUSIVE else []
        entries.append(Entry(text="; ".join([*said, *verdict.notes])))
        rows.append(tuple(entries))
    if not any(row[-1].text for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return Table(heads=tuple(heads), rows=tuple(rows))


def grid_table(grid: TextTable) -> Table:
    """A grid of texts as a table of the page."""
    heads = tuple(
        (head, "text" if letter == "l" else "number") for head, letter in zip(grid.heads, grid.align, strict=True)
    )
    rows = tuple(
        tuple(
            Entry(text=text, kind="" if letter == "l" else "number")
            for text, letter in zip(row, grid.align, strict=True)
        )
        for row in grid.rows
    )
    return Table(heads=heads, rows=rows)


def too_few(verdicts: Sequence[CellVerdict]) -> str:
    """That the seeds of some rows cannot decide so many comparisons, or nothing."""
    reasons = [verdict.reason for verdict in verdicts if verdict.reason.startswith("too few seeds")]
    if not reasons:
        return ""
    rows = "one row" if len(reasons) == 1 else f"{len(reasons):,} rows"
    return f"In {rows} p is left out, for no result could make it small: {reasons[0]}."


# ------------------------------------------------------------------------------------------------ the fairness ledger


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What the runs of one regime under one match took: per-run means, and the range of the ratio to the first regime."""

    match: str
    regime: str
    n_runs: int
    updates: float
    samples: float
    flops: float
    seconds: float
    reused: float
    ratio_updates: tuple[float, float] | None
    ratio_samples: tuple[float, float] | None


def _of(run: RunRecord, name: str) -> float:
    return float(run.result["cost"][name])


def costs(runs: Sequence[RunRecord], configs: Mapping[str, Config], labels: Sequence[str]) -> list[Cost]:
    """The ledger, one row for each match and regime; ratios compare means over seeds within each cell."""
    found = []
    matches: dict[str, list[RunRecord]] = {}
    for run in runs:
        if "cost" in run.result:
            matches.setdefault(
                configs[run.cell].stopping.budgets_match_in if run.cell in configs else "epochs", []
            ).append(run)
    for match, some in sorted(matches.items(), key=lambda item: match_order(item[0])):
        cells = by_cell(some)
        for name in labels:
            mine = [run for run in some if run.regime == name]
            if not mine:
                continue
            samples = float(np.mean([_of(run, "samples") for run in mine]))
            reused = float(np.mean([float(run.provenance.get("reused_samples", 0)) for run in mine]))
            found.append(
                Cost(
                    match=match,
                    regime=name,
                    n_runs=len(mine),
                    updates=float(np.mean([_of(run, "updates") for run in mine])),
                    samples=samples,
                    flops=float(np.mean([_of(run, "flops") for run in mine])),
                    seconds=float(np.mean([float(run.provenance.get("seconds", 0.0)) for run in mine])),
                    reused=reused / samples if samples else 0.0,
                    ratio_updates=_ratios(cells, name, labels[0], "updates") if name != labels[0] else None,
                    ratio_samples=_ratios(cells, name, labels[0], "samples") if name != labels[0] else None,
                )
            )
    return found


def _ratios(cells: Mapping[str, Sequence[RunRecord]], name: str, first: str, what: str) -> tuple[float, float] | None:
    ratios = []
    for runs in cells.values():
        mine, base = ([_of(run, what) for run in runs if run.regime == regime] for regime in (name, first))
        if mine and base and np.mean(base) > 0:
            ratios.append(float(np.mean(mine) / np.mean(base)))
    return (min(ratios), max(ratios)) if ratios else None


def ledger_table(rows: Sequence[Cost], first: str) -> Table:
    """The ledger for the page."""
    heads = (
        ("match", "text"), ("regime", "text"), ("runs", "number"), ("updates a run", "number"), ("samples a run", "number"),
        ("FLOPs a run", "number"), ("seconds a run", "number"), ("of which reused", "number"),
        (f"updates : {first}", "number"), (f"samples : {first}", "number"),
    )  # fmt: skip
    entries = [
        (
            Entry(text=row.match.replace("_", " ")),
            Entry(text=row.regime),
            _number(f"{row.n_runs:,}", row.n_runs),
            _number(f"{row.updates:,.0f}", row.updates),
            _number(f"{row.samples:,.0f}", row.samples),
            _number(_flops(row.flops), row.flops),
            _number(f"{row.seconds:.2f}", row.seconds),
            _number(f"{100 * row.reused:.0f} %", row.reused),
            _range(row.ratio_updates),
            _range(row.ratio_samples),
        )
        for row in rows
    ]
    return Table(heads=heads, rows=tuple(entries))


def _flops(value: float) -> str:
    for scale, name in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value:.0f}"


def _range(ends: tuple[float, float] | None) -> Entry:
    if ends is None:
        return Entry(text="1", sort=1.0, kind="number")
    low, high = (f"{end:.2f}" for end in ends)
    return Entry(text=low if low == high else f"{low} to {high}", sort=ends[0], kind="number")


def ledger_csv(runs: Sequence[RunRecord], configs: Mapping[str, Config]) -> str:
    """What every single run took, its place included."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = sorted({name for run in runs for name in run.axes})
    writer.writerow(
        [
            "cell",
            *names,
            "match",
            "regime",
            "seed",
            "updates",
            "samples",
            "flops",
            "seconds",
            "reused_samples",
            "stages",
        ]
    )
    for run in runs:
        if "cost" not in run.result:
            continue
        match = configs[run.cell].stopping.budgets_match_in if run.cell in configs else ""
        costs = [_of(run, name) for name in ("updates", "samples", "flops")]
        where = [axis_text(run.axes[name]) if name in run.axes else "" for name in names]
        own = [f"{cost:.0f}" for cost in costs]
        spent = [f"{float(run.provenance.get('seconds', 0.0)):.4f}", str(run.provenance.get("reused_samples", 0))]
        writer.writerow([run.cell, *where, match, run.regime, run.seed, *own, *spent, run.n_stages])
    return text.getvalue()


def matches_table(verdicts: Sequence[CellVerdict], configs: Mapping[str, Config]) -> Table | None:
    """Equal cells under different matches side by side, for one contrast; None where only one match occurs.

    The last row averages, for each match, over the cells that have all of them.
    """
    sides: dict[tuple[str, ...], dict[str, CellVerdict]] = {}
    axes = [axis for axis in varying_axes(verdicts) if not axis.startswith("stopping.") and axis != "cell"]
    for verdict in in_order(verdicts):
        if verdict.cell in configs:
            key = tuple(axis_text(coordinate(verdict, axis)) for axis in axes)
            sides.setdefault(key, {}).setdefault(configs[verdict.cell].stopping.budgets_match_in, verdict)
    matches = sorted({match for of in sides.values() for match in of}, key=match_order)
    if len(matches) < 2:
        return None
    heads = [(axis, "number") for axis in axes] + [(match.replace("_", " "), "sum") for match in matches]
    rows = []
    for key, of in sorted(sides.items(), key=lambda item: [axis_order(_as_axis(text)) for text in item[0]]):
        if len(of) > 1:
            where = [Entry(text=text, sort=k, kind="place") for k, text in enumerate(key)]
            rows.append((*where, *(_side(of.get(match)) for match in matches)))
    whole = [of for of in sides.values() if set(of) == set(matches)]
    if len(whole) > 1:
        last = [Entry(text="mean" if k == 0 else "", kind="place") for k in range(len(axes))]
        for match in matches:
            mean = overall([of[match] for of in whole])
            unit = unit_of(verdicts[0].metric)
            text = "-" if mean is None else f"{unit.difference(mean.effect)} {unit.interval(mean.ci_low, mean.ci_high)}"
            last.append(Entry(text=text, sort=float("-inf") if mean is None else mean.effect))
        rows.append(tuple(last))
    return Table(heads=tuple(heads), rows=tuple(rows)) if rows else None


def _as_axis(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _side(verdict: CellVerdict | None) -> Entry:
    if verdict is None or verdict.difference is None:
        return Entry(text="-", sort=float("-inf"), kind="number")
    unit = unit_of(verdict.metric)
    text = f"{unit.difference(verdict.difference)} {unit.interval(verdict.ci_low, verdict.ci_high)} {verdict.winner}"
    kind = "wins-a" if verdict.winner == verdict.a else "wins-b" if verdict.winner == verdict.b else "open"
    return Entry(text=text, sort=verdict.difference, kind=kind)


# ------------------------------------------------------------------------------------------------ claims


def claims_table(path: Path) -> Table | None:
    """The verdicts of ``claims.json`` (a list of objects); None where there is no such file."""
    if not path.exists():
        return None
    claims: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    heads = [
        ("claim", "text"),
        ("data", "text"),
        ("predicted", "text"),
        ("effect", "number"),
        ("95 % interval", "number"),
    ]
    heads += [("p", "number"), ("n", "number"), ("verdict", "text")]
    rows = []
    for claim in claims:
        effect, low, high = (claim.get(key) for key in ("effect", "ci_low", "ci_high"))
        verdict = str(claim.get("verdict", ""))
        kind = {"supported": "supported", "refuted": "refuted"}.get(verdict, "open")
        rows.append(
            (
                Entry(text=str(claim.get("id", ""))),
                Entry(text=str(claim.get("data", ""))),
                Entry(text=str(claim.get("predicted", ""))),
                _number("-" if effect is None else f"{effect:+.3g}", effect),
                _number("-" if low is None or high is None else f"[{low:+.3g}, {high:+.3g}]", low),
                _number(format_p(claim.get("p")), claim.get("p")),
                _number(str(claim.get("n", "-")), claim.get("n")),
                Entry(text=verdict, kind=kind),
            )
        )
    return Table(heads=tuple(heads), rows=tuple(rows)) if rows else None
