"""The fairness ledger: what the runs of every regime cost, and the same cells under other ways to match budgets."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from src.axes import axis_order, axis_text
from src.comparison.pairing import RunRecord, by_cell
from src.comparison.tables import in_order, varying_axes
from src.comparison.units import unit_of
from src.comparison.verdicts import CellVerdict, overall
from src.config import Config
from src.report.tables import LEAST, Table, TableField, level_texts, number, winner_class
from src.stopping.catalog import match_order


def match_of(config: Config | None) -> str:
    """The unit in which a cell's budgets match, or the stopping rule that matches nothing; ``epochs`` for unknown cells."""
    return "epochs" if config is None else config.stopping.budgets_match_in


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Costs of the runs of one regime under one match: means per run, `reused` as a share of the samples.

    `ratio_updates`, `ratio_samples`: range over the cells of the ratio to the base regime; None for the base itself.
    """

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


def _cost(run: RunRecord, name: str) -> float:
    return float(run.result["cost"][name])


def costs(runs: Sequence[RunRecord], configs: Mapping[str, Config], labels: Sequence[str]) -> list[Cost]:
    """One entry for each match and regime; the first of `labels` is the base of the ratios."""
    by_match: dict[str, list[RunRecord]] = {}
    for run in runs:
        if "cost" in run.result:
            by_match.setdefault(match_of(configs.get(run.cell)), []).append(run)
    found = []
    for match in sorted(by_match, key=match_order):
        cells = by_cell(by_match[match])
        for name in labels:
            own = [run for run in by_match[match] if run.regime == name]
            if not own:
                continue
            means = {key: mean(_cost(run, key) for run in own) for key in ("updates", "samples", "flops")}
            reused = mean(float(run.provenance.get("reused_samples", 0)) for run in own)
            ratios = {key: _ratios(cells, name, labels[0], key) for key in ("updates", "samples")}
            found.append(
                Cost(
                    match=match,
                    regime=name,
                    n_runs=len(own),
                    **means,
                    seconds=mean(float(run.provenance.get("seconds", 0.0)) for run in own),
                    reused=reused / means["samples"] if means["samples"] else 0.0,
                    ratio_updates=ratios["updates"],
                    ratio_samples=ratios["samples"],
                )
            )
    return found


def _ratios(cells: Mapping[str, Sequence[RunRecord]], name: str, base: str, cost: str) -> tuple[float, float] | None:
    """Range over the cells of the ratio of mean costs."""
    ratios = []
    for runs in cells.values() if name != base else ():
        own, other = ([_cost(run, cost) for run in runs if run.regime == regime] for regime in (name, base))
        if own and other and mean(other) > 0:
            ratios.append(mean(own) / mean(other))
    return (min(ratios), max(ratios)) if ratios else None


def ledger_table(costs: Sequence[Cost], base: str) -> Table:
    """The ledger for the page."""
    numbers = ("runs", "updates a run", "samples a run", "FLOPs a run", "seconds a run", "of which reused")
    heads = [("match", "text"), ("regime", "text")]
    heads += [(name, "number") for name in (*numbers, f"updates : {base}", f"samples : {base}")]
    rows = [
        (
            TableField(text=cost.match.replace("_", " ")),
            TableField(text=cost.regime),
            number(f"{cost.n_runs:,}", cost.n_runs),
            number(f"{cost.updates:,.0f}", cost.updates),
            number(f"{cost.samples:,.0f}", cost.samples),
            number(_flops(cost.flops), cost.flops),
            number(f"{cost.seconds:.2f}", cost.seconds),
            number(f"{100 * cost.reused:.0f} %", cost.reused),
            _range(cost.ratio_updates),
            _range(cost.ratio_samples),
        )
        for cost in costs
    ]
    return Table(heads=tuple(heads), rows=tuple(rows))


def _flops(value: float) -> str:
    for scale, name in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value:.0f}"


def _range(ends: tuple[float, float] | None) -> TableField:
    low, high = (f"{end:.2f}" for end in ends) if ends is not None else ("1", "1")
    return number(low if low == high else f"{low} to {high}", ends[0] if ends is not None else 1.0)


def ledger_csv(runs: Sequence[RunRecord], configs: Mapping[str, Config]) -> str:
    """The costs of every single run, with its axes."""
    text = io.StringIO()
    axes = sorted({name for run in runs for name in run.axes})
    costs = ("updates", "samples", "flops", "seconds", "reused_samples")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["cell", *axes, "match", "regime", "seed", *costs, "stages"])
    for run in runs:
        if "cost" in run.result:
            match = match_of(configs[run.cell]) if run.cell in configs else ""
            levels = [axis_text(run.axes[name]) if name in run.axes else "" for name in axes]
            spent = [f"{_cost(run, name):.0f}" for name in costs[:3]]
            seconds, reused = run.provenance.get("seconds", 0.0), run.provenance.get("reused_samples", 0)
            spent += [f"{float(seconds):.4f}", str(reused)]
            writer.writerow([run.cell, *levels, match, run.regime, run.seed, *spent, run.n_stages])
    return text.getvalue()


def matches_table(verdicts: Sequence[CellVerdict], configs: Mapping[str, Config]) -> Table | None:
    """Equal cells under different matches side by side, for one contrast; None if all cells match alike.

    The last row averages, for each match, over the cells that have all matches.
    """
    axes = [axis for axis in varying_axes(verdicts) if not axis.startswith("stopping.") and axis != "cell"]
    cells: dict[tuple[str, ...], dict[str, CellVerdict]] = {}
    for verdict in in_order(verdicts):
        if verdict.cell in configs:
            by_match = cells.setdefault(level_texts(verdict, axes), {})
            by_match.setdefault(match_of(configs[verdict.cell]), verdict)
    matches = sorted({match for by_match in cells.values() for match in by_match}, key=match_order)
    if len(matches) < 2:
        return None
    heads = [(axis, "number") for axis in axes] + [(match.replace("_", " "), "sum") for match in matches]
    rows = []
    for levels, by_match in sorted(cells.items(), key=lambda item: [axis_order(_parsed(text)) for text in item[0]]):
        if len(by_match) > 1:
            fields = [TableField(text=text, sort=k, kind="place") for k, text in enumerate(levels)]
            rows.append((*fields, *(_difference(by_match.get(match)) for match in matches)))
    complete = [by_match for by_match in cells.values() if len(by_match) == len(matches)]
    if len(complete) > 1:
        unit = unit_of(verdicts[0].metric)
        last = [TableField(text="mean" if k == 0 else "", kind="place") for k in range(len(axes))]
        for match in matches:
            effect = overall([by_match[match] for by_match in complete])
            text = "-" if effect is None else unit.difference(effect.effect)
            text += "" if effect is None else f" {unit.interval(effect.ci_low, effect.ci_high)}"
            last.append(TableField(text=text, sort=LEAST if effect is None else effect.effect))
        rows.append(tuple(last))
    return Table(heads=tuple(heads), rows=tuple(rows)) if rows else None


def _parsed(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _difference(verdict: CellVerdict | None) -> TableField:
    if verdict is None or verdict.difference is None:
        return number("-", None)
    unit = unit_of(verdict.metric)
    text = f"{unit.difference(verdict.difference)} {unit.interval(verdict.ci_low, verdict.ci_high)} {verdict.winner}"
    return TableField(text=text, sort=verdict.difference, kind=winner_class(verdict))
