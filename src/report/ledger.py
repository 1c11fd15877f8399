"""The fairness ledger: what the runs of every regime cost, and the same cells under other ways to match budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from src.axes import axis_text
from src.comparison.pairing import RunRecord, by_cell, grouped
from src.comparison.tables import csv_text, in_order, level_texts, varying_axes
from src.comparison.text_table import TextTable
from src.comparison.units import unit_of
from src.comparison.verdicts import CellVerdict, overall
from src.config import Config
from src.report.tables import Table, page_table, winner_class
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
    with_cost = [run for run in runs if "cost" in run.result]
    by_match = grouped(with_cost, lambda run: match_of(configs.get(run.cell)))
    found = []
    for match in sorted(by_match, key=match_order):
        cells, by_regime = by_cell(by_match[match]), grouped(by_match[match], lambda run: run.regime)
        for name in labels:
            if not (own := by_regime.get(name)):
                continue
            means = {key: mean(_cost(run, key) for run in own) for key in ("updates", "samples", "flops")}
            reused = mean(float(run.provenance.get("reused_samples", 0)) for run in own)
            found.append(
                Cost(
                    match=match,
                    regime=name,
                    n_runs=len(own),
                    **means,
                    seconds=mean(float(run.provenance.get("seconds", 0.0)) for run in own),
                    reused=reused / means["samples"] if means["samples"] else 0.0,
                    ratio_updates=_ratios(cells, name, labels[0], "updates"),
                    ratio_samples=_ratios(cells, name, labels[0], "samples"),
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
    heads = ("match", "regime", *numbers, f"updates : {base}", f"samples : {base}")
    rows = [
        (
            *(cost.match.replace("_", " "), cost.regime),
            *(f"{value:,.0f}" for value in (cost.n_runs, cost.updates, cost.samples)),
            *(_flops(cost.flops), f"{cost.seconds:.2f}", f"{100 * cost.reused:.0f} %"),
            *(_range(ends) for ends in (cost.ratio_updates, cost.ratio_samples)),
        )
        for cost in costs
    ]
    return page_table(TextTable(heads=heads, rows=tuple(rows), align="ll" + "r" * 8))


def _flops(value: float) -> str:
    for scale, name in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value:.0f}"


def _range(ends: tuple[float, float] | None) -> str:
    return " to ".join(dict.fromkeys(f"{end:.2f}" for end in ends)) if ends else "1"


def ledger_csv(runs: Sequence[RunRecord], configs: Mapping[str, Config]) -> str:
    """The costs of every single run, with its axes."""
    axes = sorted({name for run in runs for name in run.axes})
    costs = ("updates", "samples", "flops")
    rows = [("cell", *axes, "match", "regime", "seed", *costs, "seconds", "reused_samples", "stages")]
    for run in runs:
        if "cost" in run.result:
            match = match_of(configs[run.cell]) if run.cell in configs else ""
            levels = [axis_text(run.axes[name]) if name in run.axes else "" for name in axes]
            spent = [f"{_cost(run, name):.0f}" for name in costs]
            spent += [f"{run.provenance.get('seconds', 0.0):.4f}", str(run.provenance.get("reused_samples", 0))]
            rows.append((run.cell, *levels, match, run.regime, str(run.seed), *spent, str(run.n_stages)))
    return csv_text(rows)


def matches_table(verdicts: Sequence[CellVerdict], configs: Mapping[str, Config]) -> Table | None:
    """Equal cells under different matches side by side, for one contrast; None if all cells match alike.

    The last row averages, for each match, over the cells that have all matches.
    """
    axes = [axis for axis in varying_axes(verdicts) if not axis.startswith("stopping.") and axis != "cell"]
    cells: dict[tuple[str, ...], dict[str, CellVerdict]] = {}
    for verdict in in_order(verdicts):
        if verdict.cell in configs:
            cells.setdefault(level_texts(verdict, axes), {}).setdefault(match_of(configs[verdict.cell]), verdict)
    matches = sorted({match for by_match in cells.values() for match in by_match}, key=match_order)
    rows, winners = [], []
    for levels, by_match in cells.items():
        if len(by_match) > 1:
            found = [by_match.get(match) for match in matches]
            rows.append((*levels, *(_estimate(verdict) for verdict in found)))
            winners.append(["number" if verdict is None else winner_class(verdict) for verdict in found])
    complete = [by_match for by_match in cells.values() if len(by_match) == len(matches)]
    if len(complete) > 1:
        unit = unit_of(verdicts[0].metric)
        means = [overall([by_match[match] for by_match in complete]) for match in matches]
        texts = ("-" if one is None else unit.estimate(one.effect, one.ci_low, one.ci_high) for one in means)
        rows.append(("mean", *[""] * (len(axes) - 1), *texts))
        winners.append([""] * len(matches))
    if len(matches) < 2 or not rows:
        return None
    heads = (*axes, *(match.replace("_", " ") for match in matches))
    table = TextTable(heads=heads, rows=tuple(rows), align="r" * len(heads))
    return page_table(table, dict(enumerate(zip(*winners, strict=True), start=len(axes))))


def _estimate(verdict: CellVerdict | None) -> str:
    if verdict is None or verdict.difference is None:
        return "-"
    unit = unit_of(verdict.metric)
    return f"{unit.estimate(verdict.difference, verdict.ci_low, verdict.ci_high)} {verdict.winner}"
