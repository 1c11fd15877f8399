"""Verdicts on statements and claims, from the metrics of a study's runs and what the statements make of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from src.claims.cell import CellRuns, MissingEvidence
from src.claims.claims import Claim, Statement, Study
from src.claims.probes.catalog import PROBES
from src.comparison.metrics import metric_terms, run_metric
from src.comparison.pairing import RunRecord
from src.comparison.predictions import PredictionVerdict, increasing_trend, judge_effect
from src.comparison.statistics import (
    ALPHA,
    Floats,
    finite,
    holm,
    non_inferiority_p,
    seeds_needed,
    sign_flip_interval,
    sign_flip_p,
)
from src.config import parse_regime
from src.config.command import text_of
from src.regimes.catalog import RegimeConfig


def cell_metric(cell: CellRuns, label: str, seed: int, metric: str) -> float | None:
    """A metric, or sum of metrics, of one run; None if undefined. Raises MissingEvidence without a finished run."""
    run = cell.runs.get((label, seed))
    if run is None:
        raise MissingEvidence(f"{label}, seed {seed}, has no result in cell {cell.cell}")
    if run.diverged:
        raise MissingEvidence(f"{label}, seed {seed}, diverged in cell {cell.cell}")
    total = 0.0
    for factor, name in metric_terms(metric):
        value = _term(cell, run, name)
        if value is None:
            return None
        total += factor * value
    return total


def _term(cell: CellRuns, run: RunRecord, name: str) -> float | None:
    probe, _, value = name.partition("/")
    if probe not in PROBES:
        return run_metric(run, name)
    if probe not in cell.probe_results:
        cell.probe_results[probe] = PROBES[probe](cell)
    return cell.probe_results[probe].values.get((run.regime, run.seed), {}).get(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """The cells of a study, in the order of `study.coordinates`."""

    study: Study
    cells: tuple[CellRuns, ...]

    def values(self, cell: int, regime: RegimeConfig, metric: str) -> Floats:
        """The metric of one cell and regime, [seeds]; NaN where undefined. Raises MissingEvidence without a run."""
        if len(self.devices) > 1:
            raise MissingEvidence("some runs were made on CPU and some on CUDA, which are never paired")
        runs = self.cells[cell]
        found = [cell_metric(runs, regime.label, seed, metric) for seed in range(self.study.seeds)]
        values = np.array([np.nan if value is None else value for value in found])
        if np.isnan(values).all():
            raise MissingEvidence(f"{metric} is undefined for {regime.label} in cell {runs.cell}")
        return values

    @functools.cached_property
    def devices(self) -> set[str]:
        """Kinds of device that the study's runs were made on."""
        return {run.device for cell in self.cells for run in cell.runs.values()}

    def remarks(self) -> Iterator[str]:
        """Remarks for the reader: stages that did not converge, and the notes of the probes."""
        catalog, numbers = self.study.catalog, {cell.config.split.parts for cell in self.cells}
        labels = {parse_regime(entry, n, catalog).label for n in numbers for entry in self.study.regimes}
        runs = [run for cell in self.cells for (label, _), run in cell.runs.items() if label in labels]
        converged = [s["converged"] for run in runs for s in run.result["stages"] if s["converged"] is not None]
        if capped := sum(done is False for done in converged):
            yield f"{capped} of {len(converged)} stages not converged"
        metrics = {text for one in self.study.statements for text in (one.metric, one.minus_metric) if text}
        probes = {name.partition("/")[0] for text in metrics for _, name in metric_terms(text)}
        for cell in self.cells:
            for name, result in cell.probe_results.items():
                if name in probes:
                    yield from result.notes


@dataclass(frozen=True, kw_only=True, eq=False)
class ContrastTable:
    """The contrast of a statement: values [seeds, columns] and the label of each column.

    There is one column (a mean over cells), or one for each cell or each condition of a trend.
    """

    values: Floats
    columns: tuple[str, ...]


def contrast_table(statement: Statement, evidence: Evidence) -> ContrastTable:
    """A statement's table, for the seeds with all values. Raises MissingEvidence if a run is missing or diverged."""
    study, at, along = evidence.study, statement.at, statement.along
    regimes, reference = statement.regimes(study.catalog), statement.reference(study.catalog)

    def column(cell: int, regime: RegimeConfig) -> Floats:
        """The metric in one cell, minus that of the reference regime if there is one."""
        values = evidence.values(cell, regime, statement.metric)
        if reference is None:
            return values
        return values - evidence.values(cell, reference, statement.minus_metric or statement.metric)

    def mean(at: Mapping[str, Any], regime: RegimeConfig = regimes[0]) -> Floats:
        return np.asarray(np.stack([column(cell, regime) for cell in study.cells(at)], axis=1).mean(axis=1))

    if statement.contrast == "everywhere":
        names = [" ".join(f"{axis}={text_of(v)}" for axis, v in cell.items()) for cell in study.coordinates]
        columns = {names[cell]: column(cell, regimes[0]) for cell in study.cells(at)}
    elif statement.contrast == "between_cells":
        columns = {"mean over cells": mean(at) - mean(statement.minus_at)}
    elif statement.contrast == "trend" and along is not None:
        columns = {text_of(value): mean({**at, along: [value]}) for value in at.get(along, study.axes[along])}
    elif statement.contrast == "trend":
        columns = {regime.label: mean(at, regime) for regime in regimes}
    else:
        columns = {"mean over cells": mean(at)}
    values = np.stack(list(columns.values()), axis=1)
    values = values[~np.isnan(values).any(axis=1)]
    if not len(values):
        raise MissingEvidence("no seed has a value in every cell")
    return ContrastTable(values=values, columns=tuple(columns))


MIN_TREND_SEEDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class StatementVerdict:
    """The verdict on a statement. None: not measured; `p` and the interval: or too few seeds."""

    says: str
    prediction: str
    decides: bool
    verdict: PredictionVerdict = "inconclusive"
    effect: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    n: int = 0
    reason: str = ""
    means: Mapping[str, float] = field(default_factory=dict)
    """Mean of each column of the contrast."""
    values: tuple[float, ...] = ()
    """The value of every seed; of a trend or of several cells, that of the displayed step or cell."""


@dataclass(frozen=True, slots=True)
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
        return self.verdict != "supported" if self.study.control else self.verdict == self.study.expected


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
    return ClaimVerdict(claim, evidence.study, verdict, statements, tuple(dict.fromkeys(evidence.remarks())))


def judge_statement(statement: Statement, evidence: Evidence) -> StatementVerdict:
    """The verdict on one statement; inconclusive, with the reason, if runs are missing, diverged or too few."""
    verdict = StatementVerdict(says=statement.says, prediction=statement.prediction, decides=statement.decides)
    try:
        table = contrast_table(statement, evidence)
    except MissingEvidence as why:
        return replace(verdict, reason=str(why))
    has_columns = statement.contrast in JUDGES
    found = JUDGES.get(statement.contrast, _judge_mean)(statement, table)
    null = 0.0 if statement.contrast == "trend" else statement.against
    low, high = (finite(end + null) for end in sign_flip_interval(found.values - null))
    means = zip(table.columns, table.values.mean(axis=0).tolist(), strict=True)
    return replace(
        verdict,
        verdict=found.verdict,
        effect=float((found.values - null).mean()) + null,
        ci_low=low,
        ci_high=high,
        p=found.p,
        n=len(found.values),
        reason=found.reason,
        means=dict(means) if has_columns else {},
        values=tuple(found.values.tolist()),
    )


class Finding(NamedTuple):
    """The verdict on a table, and the values [seeds] that give effect and interval."""

    verdict: PredictionVerdict
    reason: str
    values: Floats
    p: float | None


def _judge_mean(statement: Statement, table: ContrastTable) -> Finding:
    values = table.values[:, 0]
    predicted: Any = statement.predicted  # `increasing` and `decreasing` are those of trends
    judgement = judge_effect(values - statement.against, predicted, margin=statement.margin)
    return Finding(judgement.verdict, judgement.reason, values, judgement.p)


def _judge_everywhere(statement: Statement, table: ContrastTable) -> Finding:
    """Supported if shown to be above -margin in every cell (level alpha each, intersection-union), but equivalent if,
    Holm-corrected over the cells, one is below 0; refuted if one is worse by more than the margin. The values are those
    of the worst cell."""
    values, margin = table.values - statement.against, statement.margin
    assert margin is not None
    n, n_cells = values.shape
    worst = int(np.argmin(values.mean(axis=0)))
    p = float(non_inferiority_p(values.T, margin).max())  # that it holds in every cell (Berger 1982, Technometrics 24)
    worse = holm(sign_flip_p(values.T, null=-margin, alternative="less"))
    below = int((holm(sign_flip_p(values.T, alternative="less")) <= ALPHA).sum())
    verdict: PredictionVerdict = "inconclusive"
    reason = f"shown neither to be no worse in every one of {n_cells} cells, nor to be worse in one"
    if n < seeds_needed(1, 2 * ALPHA):
        reason = f"too few seeds: {n} cannot decide it"
    elif p <= ALPHA:
        verdict = "equivalent" if below else "supported"
        reason = f"shown to be no worse in each of {n_cells} cells"
    elif worse.min() <= ALPHA:
        column = table.columns[int(np.argmin(worse))]
        verdict, reason = "refuted", f"worse by more than the margin at {column} (Holm over {n_cells} cells)"
    if below:
        reason += f"; below {statement.against:g} with certainty in {below}"
    return Finding(verdict, f"{reason}; the smallest mean is at {table.columns[worst]}", table.values[:, worst], p)


def _judge_trend(statement: Statement, table: ContrastTable) -> Finding:
    """Supported by Page's test if it holds without the largest step too and no single step is against the order with
    certainty; equivalent if one is, by less than the margin; refuted by Page's test of the opposite order or by a step
    of more than the margin. The values are last minus first condition, or that step."""
    values = table.values
    change = values[:, -1] - values[:, 0]
    if len(values) < MIN_TREND_SEEDS or values.shape[1] < 3:
        return Finding("inconclusive", f"too few: a trend needs 3 conditions and {MIN_TREND_SEEDS} seeds", change, None)
    ordered = values if statement.predicted == "increasing" else -values
    trend = increasing_trend(ordered)
    steps = np.diff(ordered.mean(axis=0))
    certain = [k for k, p in enumerate(trend.drop_p) if p <= ALPHA and -steps[k] > (statement.margin or 0.0)]
    if certain:
        worst = max(certain, key=lambda k: -steps[k])
        first, second = table.columns[worst : worst + 2]
        reason = f"opposite step from {first} to {second}, with certainty; the values are of that step"
        return Finding("refuted", reason, values[:, worst + 1] - values[:, worst], trend.p)
    if trend.p_opposite <= ALPHA:
        return Finding("refuted", f"the trend is opposite (Page p = {trend.p_opposite:.2g})", change, trend.p)
    if trend.p <= ALPHA < trend.rest_p:
        reason = f"one step carries it: without the largest one no trend is certain (p = {trend.rest_p:.3f})"
        return Finding("inconclusive", reason, change, trend.p)
    if trend.p <= ALPHA:
        within = min(trend.drop_p) <= ALPHA
        largest = f"largest step against the order {trend.largest_drop:.2g}, {'certain' if within else 'none certain'}"
        verdict: PredictionVerdict = "equivalent" if within else "supported"
        return Finding(verdict, f"Page p = {trend.p:.2g}; {largest}", change, trend.p)
    return Finding("inconclusive", f"no trend is certain (Page p = {trend.p:.3f})", change, trend.p)


JUDGES: dict[str, Callable[[Statement, ContrastTable], Finding]] = {
    "everywhere": _judge_everywhere,
    "trend": _judge_trend,
}
"""How the contrasts of several columns are judged."""
