"""The fairness ledger: what the runs of every regime cost, and the same cells under other ways to match budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from src.axes import axis_text
from src.comparison.pairing import RunRecord
from src.comparison.sentences import overall
from src.comparison.tables import in_order, level_texts, varying_axes
from src.comparison.text_table import TextTable
from src.comparison.units import unit_of
from src.comparison.verdicts import CellVerdict
from src.config import Config
from src.report.tables import PageTable, page_table, winner_class
from src.stopping.catalog import match_order

if TYPE_CHECKING:
    from pandas import DataFrame

SPENT = ("updates", "samples", "flops")
RECORDED = "recorded"
"""The match of runs that another trainer made: nothing is known of it. They may lack some costs."""


def match_of(config: Config | None) -> str:
    """The unit in which a cell's budgets match, or the name of its rule; ``epochs`` for unknown cells."""
    return "epochs" if config is None else config.stopping.budgets_match_in


def run_costs(runs: Sequence[RunRecord], configs: Mapping[str, Config]) -> DataFrame:
    """One row for each run whose cost is recorded: its cell and match, and what it spent."""
    import pandas as pd

    rows = [
        {
            "cell": run.cell,
            **{name: axis_text(run.axes[name]) for name in sorted(run.axes)},
            "match": RECORDED if run.provenance.get("engine") == RECORDED else match_of(configs.get(run.cell)),
            "regime": run.regime,
            "seed": run.seed,
            **{name: float(run.result["cost"].get(name, math.nan)) for name in SPENT},
            "seconds": float(run.provenance.get("seconds", math.nan)),
            "reused_samples": float(run.provenance.get("reused_samples", 0)),
            "stages": run.n_stages,
        }
        for run in runs
        if "cost" in run.result
    ]
    return pd.DataFrame(rows)


def costs(spent: DataFrame, labels: Sequence[str]) -> DataFrame:
    """Means per run by (match, regime): `runs`, what they spend, `reused` as a share of the samples.

    `updates : BASE` and `samples : BASE` are the range over cells of the ratio to the first of `labels`, as (low,
    high).
    """
    import pandas as pd

    groups, base = spent.groupby(["match", "regime"]), labels[0]
    means = groups[[*SPENT, "seconds"]].mean()
    means.insert(0, "runs", groups.size())
    means["reused"] = (groups["reused_samples"].sum() / groups["samples"].sum()).fillna(0.0)
    of_cell = spent.groupby(["match", "cell", "regime"])[["updates", "samples"]].mean()
    for name, values in of_cell.items():
        ratios = values.unstack("regime").reindex(columns=labels)
        ratios = ratios.div(ratios[base].where(ratios[base] > 0), axis=0).drop(columns=base)
        ends = ratios.stack().dropna().groupby(["match", "regime"]).agg(["min", "max"])
        means[f"{name} : {base}"] = pd.Series(list(ends.itertuples(index=False, name=None)), ends.index, dtype=object)
    order = [(match, name) for match in sorted(set(spent["match"]), key=match_order) for name in labels]
    return means.loc[[key for key in order if key in means.index]]


def ledger_table(costs: DataFrame) -> PageTable:
    """The ledger for the page."""
    *_, updates, samples = costs.columns
    numbers = ("runs", "updates a run", "samples a run", "FLOPs a run", "seconds a run", "of which reused")
    rows = [
        (
            *(match.replace("_", " "), regime),
            *(_known(cost[name], ",.0f") for name in ("runs", "updates", "samples")),
            *(_flops(cost["flops"]), _known(cost["seconds"], ".2f"), f"{100 * cost['reused']:.0f} %"),
            *("1" if name.endswith(f" : {regime}") else _range(cost[name]) for name in (updates, samples)),
        )
        for (match, regime), cost in costs.iterrows()
    ]
    heads = ("match", "regime", *numbers, updates, samples)
    return page_table(TextTable(heads=heads, rows=tuple(rows), align="ll" + "r" * 8))


def _flops(value: float) -> str:
    for scale, name in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return _known(value, ".0f")


def _known(value: float, form: str) -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _range(ends: object) -> str:
    return " to ".join(dict.fromkeys(f"{end:.2f}" for end in ends)) if isinstance(ends, tuple) else "-"


def ledger_csv(spent: DataFrame) -> str:
    """The costs of every single run, with its axes."""
    whole = dict.fromkeys([*SPENT, "reused_samples"], "Int64")
    seconds = spent["seconds"].map("{:.4f}".format, na_action="ignore")
    text: str = spent.astype(whole).assign(seconds=seconds).to_csv(index=False)
    return text


def matches_table(verdicts: Sequence[CellVerdict], configs: Mapping[str, Config]) -> PageTable | None:
    """Equal cells under different matches side by side, for one contrast; None if all cells have the same match.

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
