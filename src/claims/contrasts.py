"""From a statement to its verdict: the contrast makes numbers of the runs, the prediction judges them.

A contrast gives a table [seeds, columns]: one column of one number per seed (an average over cells), or one column for each
cell or each condition of a trend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.claims.claims import Claim, Statement, Study, hydra_text
from src.claims.evidence import Evidence, Missing
from src.comparison.predictions import PredictionVerdict, increasing_trend, judge_effect
from src.comparison.statistics import (
    everywhere_p,
    holm,
    non_inferiority_p,
    seeds_needed,
    sign_flip_interval,
    sign_flip_p,
)
from src.regimes.config import RegimeConfig

Floats = NDArray[np.float64]
ALPHA = 0.05
LEAST_TREND_SEEDS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbers:
    """`table` [seeds, columns] of a contrast, the seeds of its rows, and what each column stands for."""

    table: Floats
    seeds: tuple[int, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What became of a statement. The numbers are None where nothing could be measured, `p` and the interval also where
    there are too few seeds. `means`: of each column of the contrast."""

    says: str
    prediction: str
    decides: bool
    verdict: PredictionVerdict
    effect: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    n: int
    reason: str
    means: Mapping[str, float] = field(default_factory=dict)
    values: tuple[float, ...] = ()
    """The number of every seed; of a trend or of several cells, that of the last step or of the worst cell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """What became of a claim in one study."""

    claim: Claim
    study: Study
    verdict: PredictionVerdict
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]

    @property
    def decided_by(self) -> Finding:
        """The first statement that has the claim's verdict."""
        return next((f for f in self.findings if f.decides and f.verdict == self.verdict), self.findings[0])

    @property
    def as_expected(self) -> bool:
        return self.verdict == self.study.expected


def settle(claim: Claim, evidence: Evidence) -> Settled:
    """Judges every statement and then the claim.

    Refuted if a statement it rests on is; supported if all are; equivalent if all are one or the other; else inconclusive.
    No correction: the claim says that all of them hold (intersection-union).
    """
    findings = tuple(judge_statement(statement, evidence) for statement in evidence.study.statements)
    words = {finding.verdict for finding in findings if finding.decides}
    verdict: PredictionVerdict = "inconclusive"
    if "refuted" in words:
        verdict = "refuted"
    elif words == {"supported"}:
        verdict = "supported"
    elif words and words <= {"supported", "equivalent"}:
        verdict = "equivalent"
    remarks = tuple(dict.fromkeys(evidence.remarks()))
    return Settled(claim=claim, study=evidence.study, verdict=verdict, findings=findings, remarks=remarks)


def judge_statement(statement: Statement, evidence: Evidence) -> Finding:
    """The verdict on one statement; inconclusive, with the reason, where runs are missing, diverged or too few."""
    try:
        numbers = CONTRASTS[statement.contrast](statement, evidence)
    except Missing as why:
        return _finding(statement, "inconclusive", str(why), n=0)
    finding: Finding = JUDGES.get(statement.contrast, _judge_mean)(statement, numbers)
    return finding


# ------------------------------------------------------------------------------------------------ contrasts


def _value(statement: Statement, evidence: Evidence) -> Numbers:
    return _one_column([_column(statement, evidence, cell) for cell in _cells(evidence, statement.at)])


def _between_cells(statement: Statement, evidence: Evidence) -> Numbers:
    first = _value(statement, evidence)
    second = _one_column([_column(statement, evidence, cell) for cell in _cells(evidence, statement.minus_at)])
    return _one_column([_minus(_as_dict(first), _as_dict(second))])


def _trend(statement: Statement, evidence: Evidence) -> Numbers:
    """Columns in the order of the axis, each averaged over the other axes; or in the order of the regimes."""
    study = evidence.study
    if statement.along is None:
        cells = _cells(evidence, statement.at)
        by_regime = [[_column(statement, evidence, cell, regime) for cell in cells] for regime in statement.regimes]
        return _columns([_mean(part) for part in by_regime], [regime.label for regime in statement.regimes])
    chosen = statement.at.get(statement.along, study.axes[statement.along])
    columns = []
    for value in chosen:
        cells = _cells(evidence, {**statement.at, statement.along: [value]})
        columns.append(_mean([_column(statement, evidence, cell) for cell in cells]))
    return _columns(columns, [hydra_text(value) for value in chosen])


def _everywhere(statement: Statement, evidence: Evidence) -> Numbers:
    cells = _cells(evidence, statement.at)
    names = [" ".join(f"{k}={hydra_text(v)}" for k, v in evidence.study.places[cell].items()) for cell in cells]
    return _columns([_column(statement, evidence, cell) for cell in cells], names)


CONTRASTS: dict[str, Callable[[Statement, Evidence], Numbers]] = {
    "value": _value,
    "difference": _value,
    "between_cells": _between_cells,
    "trend": _trend,
    "everywhere": _everywhere,
}


def _cells(evidence: Evidence, at: Mapping[str, Any]) -> list[int]:
    return evidence.study.cells(at)


def _column(
    statement: Statement, evidence: Evidence, cell: int, regime: RegimeConfig | None = None
) -> dict[int, float]:
    """The metric of the statement's regime in one cell at every seed, less that of the regime that is subtracted."""
    values = evidence.numbers(cell, regime or statement.regimes[0], statement.metric)
    if statement.reference is None:
        return values
    return _minus(values, evidence.numbers(cell, statement.reference, statement.minus_metric or statement.metric))


def _minus(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def _mean(parts: Sequence[Mapping[int, float]]) -> dict[int, float]:
    shared = set.intersection(*(set(part) for part in parts))
    return {seed: float(np.mean([part[seed] for part in parts])) for seed in sorted(shared)}


def _columns(parts: Sequence[Mapping[int, float]], names: Sequence[str]) -> Numbers:
    seeds = sorted(set.intersection(*(set(part) for part in parts)))
    if not seeds:
        raise Missing("no seed has a value in every cell")
    table = np.array([[part[seed] for part in parts] for seed in seeds])
    return Numbers(table=table, seeds=tuple(seeds), columns=tuple(names))


def _one_column(parts: Sequence[Mapping[int, float]]) -> Numbers:
    return _columns([_mean(parts)], ["mean over cells"])


def _as_dict(numbers: Numbers) -> dict[int, float]:
    return dict(zip(numbers.seeds, numbers.table[:, 0].tolist(), strict=True))


# ------------------------------------------------------------------------------------------------ verdicts


def _judge_mean(statement: Statement, numbers: Numbers) -> Finding:
    values, null = numbers.table[:, 0], statement.against
    assert statement.predicted != "increasing"
    assert statement.predicted != "decreasing"
    judged = judge_effect(values - null, statement.predicted, margin=statement.margin, alpha=ALPHA)
    return _finding(
        statement,
        judged.verdict,
        judged.reason,
        n=judged.n,
        effect=judged.effect + null,
        ends=tuple(None if end is None else end + null for end in (judged.ci_low, judged.ci_high)),
        p=judged.p,
        values=values,
    )


def _judge_everywhere(statement: Statement, numbers: Numbers) -> Finding:
    """Supported if shown no worse than the margin in every cell (level alpha each, no correction: intersection-union);
    refuted if, Holm-corrected over the cells, it is worse by more than the margin somewhere. Shown is the worst cell."""
    table, margin = numbers.table - statement.against, statement.margin
    assert margin is not None
    n = len(table)
    means = dict(zip(numbers.columns, (table.mean(axis=0) + statement.against).tolist(), strict=True))
    worst = int(np.argmin(table.mean(axis=0)))
    p = everywhere_p(non_inferiority_p(table.T, margin))
    worse = holm(sign_flip_p(table.T, null=-margin, alternative="less"))
    below = holm(sign_flip_p(table.T, alternative="less"))
    verdict: PredictionVerdict = "inconclusive"
    reason = f"not shown to be no worse in every one of {table.shape[1]} cells, nor worse in one"
    if n < seeds_needed(1, 2 * ALPHA):
        reason = f"too few seeds: {n} cannot decide it"
    elif p <= ALPHA:
        verdict, reason = "supported", f"shown to be no worse in each of {table.shape[1]} cells"
    elif worse.min() <= ALPHA:
        where = numbers.columns[int(np.argmin(worse))]
        verdict, reason = "refuted", f"worse by more than the margin at {where} (Holm over {table.shape[1]} cells)"
    if (below <= ALPHA).any():
        reason += f"; below {statement.against:g} with certainty in {int((below <= ALPHA).sum())}"
    ends = _ends(table[:, worst], statement.against)
    effect = float(table[:, worst].mean()) + statement.against
    reason = f"{reason}; the least mean is at {numbers.columns[worst]}"
    return _finding(
        statement, verdict, reason, n=n, effect=effect, ends=ends, p=p, means=means, values=numbers.table[:, worst]
    )


def _judge_trend(statement: Statement, numbers: Numbers) -> Finding:
    """Supported by Page's test if no single step goes the other way with certainty by more than the margin; refuted by
    Page's test of the opposite order or by such a step. Shown is the last condition less the first, or such a step."""
    sign = 1.0 if statement.predicted == "increasing" else -1.0
    table = sign * numbers.table
    means = dict(zip(numbers.columns, numbers.table.mean(axis=0).tolist(), strict=True))
    steps = numbers.table[:, -1] - numbers.table[:, 0]
    shown: dict[str, Any] = {"n": len(table), "means": means, "values": steps}
    shown |= {"effect": float(steps.mean()), "ends": _ends(steps, 0.0)}
    if len(table) < LEAST_TREND_SEEDS or table.shape[1] < 3:
        few = f"too few: a trend needs 3 conditions and {LEAST_TREND_SEEDS} seeds"
        return _finding(statement, "inconclusive", few, **shown)
    trend = increasing_trend(table)
    falls = np.diff(table.mean(axis=0))
    certain = [k for k, p in enumerate(trend.drop_p) if p <= ALPHA and -falls[k] > (statement.margin or 0.0)]
    verdict: PredictionVerdict = "inconclusive"
    reason = f"no trend is certain (Page p = {trend.p:.3f})"
    if certain:
        worst = max(certain, key=lambda k: -falls[k])
        first, second = numbers.columns[worst], numbers.columns[worst + 1]
        verdict, reason = "refuted", f"the other way from {first} to {second}, with certainty; shown is that step"
        step = numbers.table[:, worst + 1] - numbers.table[:, worst]
        shown |= {"effect": float(step.mean()), "ends": _ends(step, 0.0), "values": step}
    elif trend.p_opposite <= ALPHA:
        verdict, reason = "refuted", f"the trend is the other way (Page p = {trend.p_opposite:.2g})"
    elif trend.p <= ALPHA:
        verdict = "supported"
        reason = f"Page p = {trend.p:.2g}; largest step against the order {trend.largest_drop:.2g}, none certain"
    return _finding(statement, verdict, reason, p=trend.p, **shown)


JUDGES: dict[str, Callable[[Statement, Numbers], Finding]] = {"everywhere": _judge_everywhere, "trend": _judge_trend}


def _ends(values: Floats, shift: float) -> tuple[float | None, ...]:
    ends = [float(end) for end in sign_flip_interval(values, alpha=ALPHA)]
    return tuple(end + shift if math.isfinite(end) else None for end in ends)


def _finding(
    statement: Statement,
    verdict: PredictionVerdict,
    reason: str,
    *,
    n: int,
    effect: float | None = None,
    ends: Sequence[float | None] = (None, None),
    p: float | None = None,
    means: Mapping[str, float] | None = None,
    values: Floats | None = None,
) -> Finding:
    return Finding(
        says=statement.says,
        prediction=statement.prediction,
        decides=statement.decides,
        verdict=verdict,
        effect=effect,
        ci_low=ends[0],
        ci_high=ends[1],
        p=p,
        n=n,
        reason=reason,
        means=means or {},
        values=() if values is None else tuple(values.tolist()),
    )
