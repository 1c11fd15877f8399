"""Verdicts on statements and claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from src.claims.cell import MissingEvidence
from src.claims.claims import Claim, Statement, Study
from src.claims.contrasts import ContrastTable, contrast_table
from src.claims.evidence import Evidence
from src.comparison.predictions import PredictionVerdict, finite_interval, increasing_trend, judge_effect
from src.comparison.statistics import Floats, everywhere_p, holm, non_inferiority_p, seeds_needed, sign_flip_p

ALPHA = 0.05
MIN_TREND_SEEDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class StatementVerdict:
    """The verdict on a statement. Values are None if nothing was measured, `p` and the interval also with too few seeds."""

    says: str
    prediction: str
    decides: bool
    verdict: PredictionVerdict
    effect: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    n: int = 0
    reason: str
    means: Mapping[str, float] = field(default_factory=dict)
    """Mean of each column of the contrast."""
    values: tuple[float, ...] = ()
    """The value of every seed; of a trend or of several cells, that of the displayed step or cell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimVerdict:
    """The verdict on a claim in one study."""

    claim: Claim
    study: Study
    verdict: PredictionVerdict
    statements: tuple[StatementVerdict, ...]
    remarks: tuple[str, ...]

    @property
    def decisive(self) -> StatementVerdict:
        """The first statement that has the claim's verdict."""
        same = (one for one in self.statements if one.decides and one.verdict == self.verdict)
        return next(same, self.statements[0])

    @property
    def as_expected(self) -> bool:
        return self.verdict == self.study.expected


def judge_claim(claim: Claim, evidence: Evidence) -> ClaimVerdict:
    """Judges every statement and then the claim.

    Refuted if a deciding statement is; supported if all are; equivalent if all are one or the other; else inconclusive.
    There is no correction, because the claim asserts all of its statements (intersection-union).
    """
    statements = tuple(judge_statement(statement, evidence) for statement in evidence.study.statements)
    found = {one.verdict for one in statements if one.decides}
    verdict: PredictionVerdict = "inconclusive"
    if "refuted" in found:
        verdict = "refuted"
    elif found == {"supported"}:
        verdict = "supported"
    elif found and found <= {"supported", "equivalent"}:
        verdict = "equivalent"
    remarks = tuple(dict.fromkeys(evidence.remarks()))
    return ClaimVerdict(claim=claim, study=evidence.study, verdict=verdict, statements=statements, remarks=remarks)


def judge_statement(statement: Statement, evidence: Evidence) -> StatementVerdict:
    """The verdict on one statement; inconclusive, with the reason, if runs are missing, diverged or too few."""
    try:
        table = contrast_table(statement, evidence)
    except MissingEvidence as why:
        return StatementVerdict(
            says=statement.says,
            prediction=statement.prediction,
            decides=statement.decides,
            verdict="inconclusive",
            reason=str(why),
        )
    return JUDGES.get(statement.contrast, _judge_mean)(statement, table)


def _judge_mean(statement: Statement, table: ContrastTable) -> StatementVerdict:
    assert statement.predicted != "increasing"
    assert statement.predicted != "decreasing"
    values = table.values[:, 0]
    judgement = judge_effect(values - statement.against, statement.predicted, margin=statement.margin, alpha=ALPHA)
    return _verdict(statement, judgement.verdict, judgement.reason, values, p=judgement.p)


def _judge_everywhere(statement: Statement, table: ContrastTable) -> StatementVerdict:
    """Supported if shown to be within the margin in every cell (level alpha each, intersection-union); refuted if,
    Holm-corrected over the cells, one is worse by more than the margin. The values are those of the worst cell."""
    values, margin = table.values - statement.against, statement.margin
    assert margin is not None
    n, n_cells = values.shape
    worst = int(np.argmin(values.mean(axis=0)))
    p = everywhere_p(non_inferiority_p(values.T, margin))
    worse = holm(sign_flip_p(values.T, null=-margin, alternative="less"))
    below = int((holm(sign_flip_p(values.T, alternative="less")) <= ALPHA).sum())
    verdict: PredictionVerdict = "inconclusive"
    reason = f"shown neither to be no worse in every one of {n_cells} cells, nor to be worse in one"
    if n < seeds_needed(1, 2 * ALPHA):
        reason = f"too few seeds: {n} cannot decide it"
    elif p <= ALPHA:
        verdict, reason = "supported", f"shown to be no worse in each of {n_cells} cells"
    elif worse.min() <= ALPHA:
        column = table.columns[int(np.argmin(worse))]
        verdict, reason = "refuted", f"worse by more than the margin at {column} (Holm over {n_cells} cells)"
    if below:
        reason += f"; below {statement.against:g} with certainty in {below}"
    reason += f"; the smallest mean is at {table.columns[worst]}"
    return _verdict(statement, verdict, reason, table.values[:, worst], p=p, table=table)


def _judge_trend(statement: Statement, table: ContrastTable) -> StatementVerdict:
    """Supported by Page's test unless a single step is against the order, with certainty and by more than the margin;
    refuted by Page's test of the opposite order or by such a step. The values are last minus first condition, or that
    step."""
    values = table.values
    change = values[:, -1] - values[:, 0]
    if len(values) < MIN_TREND_SEEDS or values.shape[1] < 3:
        reason = f"too few: a trend needs 3 conditions and {MIN_TREND_SEEDS} seeds"
        return _verdict(statement, "inconclusive", reason, change, table=table)
    ordered = values if statement.predicted == "increasing" else -values
    trend = increasing_trend(ordered)
    steps = np.diff(ordered.mean(axis=0))
    certain = [k for k, p in enumerate(trend.drop_p) if p <= ALPHA and -steps[k] > (statement.margin or 0.0)]
    verdict: PredictionVerdict = "inconclusive"
    reason = f"no trend is certain (Page p = {trend.p:.3f})"
    if certain:
        worst = max(certain, key=lambda k: -steps[k])
        change = values[:, worst + 1] - values[:, worst]
        first, second = table.columns[worst : worst + 2]
        verdict, reason = (
            "refuted",
            f"opposite step from {first} to {second}, with certainty; the values are of that step",
        )
    elif trend.p_opposite <= ALPHA:
        verdict, reason = "refuted", f"the trend is opposite (Page p = {trend.p_opposite:.2g})"
    elif trend.p <= ALPHA:
        verdict = "supported"
        reason = f"Page p = {trend.p:.2g}; largest step against the order {trend.largest_drop:.2g}, none certain"
    return _verdict(statement, verdict, reason, change, p=trend.p, table=table)


JUDGES: dict[str, Callable[[Statement, ContrastTable], StatementVerdict]] = {
    "everywhere": _judge_everywhere,
    "trend": _judge_trend,
}


def _verdict(
    statement: Statement,
    verdict: PredictionVerdict,
    reason: str,
    values: Floats,
    *,
    p: float | None = None,
    table: ContrastTable | None = None,
) -> StatementVerdict:
    """`values` [seeds] give effect and interval; `table` gives the means of its columns."""
    null = 0.0 if statement.contrast == "trend" else statement.against
    low, high = (None if end is None else end + null for end in finite_interval(values - null, ALPHA))
    means = {} if table is None else dict(zip(table.columns, table.values.mean(axis=0).tolist(), strict=True))
    return StatementVerdict(
        says=statement.says,
        prediction=statement.prediction,
        decides=statement.decides,
        verdict=verdict,
        effect=float((values - null).mean()) + null,
        ci_low=low,
        ci_high=high,
        p=p,
        n=len(values),
        reason=reason,
        means=means,
        values=tuple(values.tolist()),
    )
