"""Decides which regime wins in each cell: paired by seed, tested by the exact sign-flip test, corrected by Holm.

The family of the correction is everything that one command compares: its cells times its pairs of regimes, for one metric.
A cell's 95 % interval inverts the uncorrected test, so in a large family it may exclude zero while the corrected test names
no winner; the winner is always that of the corrected test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from src.axes import AxisValue
from src.comparison.pairing import FailedRun, Pairs, Records, RunRecord, by_cell, pair
from src.comparison.predictions import Judgement, judge_effect
from src.comparison.statistics import holm, seeds_needed, sign_flip_interval, sign_flip_p
from src.comparison.units import name_of, unit_of

UNDECIDED = "undecided"
INCONCLUSIVE = "inconclusive"
TEST_SETS = ("d1", "d2", "union")


@dataclass(frozen=True, kw_only=True, slots=True)
class CellVerdict:
    """The comparison of two regimes in one cell. All values are in the metric's own unit.

    None where a value cannot be given: the means without a pair; interval and p with too few seeds or a diverged run.
    """

    cell: str
    axes: Mapping[str, AxisValue]
    metric: str
    a: str
    b: str
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    """Mean of a - b over seeds."""
    ci_low: float | None
    ci_high: float | None
    p: float | None
    """Two-sided sign-flip p of this cell alone; None if so few seeds cannot make it small."""
    p_holm: float | None
    """Corrected over the family; None if so few seeds cannot make it small in a family of this size."""
    n: int
    family: int
    """Number of comparisons that the correction spans."""
    winner: str
    """Label of the winning regime, "undecided" (the difference is uncertain) or "inconclusive" (see `reason`)."""
    reason: str
    notes: tuple[str, ...]
    seeds: tuple[int, ...] = field(repr=False)
    differences: tuple[float, ...] = field(repr=False)
    """a - b for each of `seeds`."""

    @property
    def certain(self) -> bool:
        """Whether one of the regimes wins."""
        return self.winner in (self.a, self.b)


def default_metric(runs: Iterable[RunRecord]) -> str:
    """The metric that regimes are compared by unless another is given: accuracy on the union of the test sets.

    For a regression, which has no accuracy: the exact risk if every run has it, else the loss.
    """
    finished = [run for run in runs if not run.diverged]
    if not finished or any(run.metric("test/union/accuracy") is not None for run in finished):
        return "test/union/accuracy"
    has_risk = all(run.metric("test/union/risk") is not None for run in finished)
    return "test/union/risk" if has_risk else "test/union/loss"


def judge(
    records: Records,
    regimes: Sequence[str],
    metric: str | None = None,
    alpha: float = 0.05,
    *,
    n_tests: int | None = None,
) -> list[CellVerdict]:
    """The verdict for every cell of `records` and every two of `regimes`.

    Args:
        regimes: labels, in the command's order.
        metric: None selects `default_metric`.
        n_tests: size of the family when the command ends, for verdicts while it runs; by default the number of
            comparisons that have pairs.
    """
    metric = metric or default_metric(records.runs)
    runs = by_cell(records.runs)
    axes = {run.cell: run.axes for run in records.runs} | {run.cell: run.axes for run in records.failed}
    all_pairs = [
        (cell, pair(runs.get(cell, ()), a, b, metric)) for cell in sorted(axes) for a, b in combinations(regimes, 2)
    ]
    testable = [pairs for _, pairs in all_pairs if pairs.problem is None]
    tests = _test(testable, alpha)
    family = max(len(testable), n_tests or 0)
    corrected = holm([p for p, _, _ in tests], n_tests=family)
    by_pairs = {id(pairs): (*test, float(p)) for pairs, test, p in zip(testable, tests, corrected, strict=True)}
    return [
        _verdict(
            cell,
            axes[cell],
            pairs,
            by_pairs.get(id(pairs)),
            family,
            alpha,
            [run for run in records.failed if run.cell == cell and run.regime in (pairs.a, pairs.b)],
        )
        for cell, pairs in all_pairs
    ]


def _test(testable: Sequence[Pairs], alpha: float) -> list[tuple[float, float, float]]:
    """(p, low, high) of each comparison; those with equally many seeds are computed together."""
    by_n: dict[int, list[int]] = {}
    for index, pairs in enumerate(testable):
        by_n.setdefault(len(pairs.seeds), []).append(index)
    tests = {}
    for indices in by_n.values():
        differences = np.array([testable[index].differences for index in indices])
        columns = (sign_flip_p(differences), *sign_flip_interval(differences, alpha=alpha))
        for index, *values in zip(indices, *columns, strict=True):
            p, low, high = map(float, values)
            tests[index] = (p, low, high)
    return [tests[index] for index in range(len(testable))]


def decide(
    difference: float, metric: str, a: str, b: str, *, p: float | None, p_holm: float, n: int, family: int, alpha: float
) -> tuple[str, str, float | None]:
    """(winner, reason, corrected p) of a tested comparison; the p is None if `n` seeds are too few for the family.

    `p`: of this comparison alone, None if the seeds are too few even for one.
    """
    needed = seeds_needed(family, alpha)
    if p is None or (p_holm > alpha and n < needed):
        scope = "a comparison" if family == 1 else f"{family} comparisons at once"
        return UNDECIDED, f"too few seeds: {n} cannot decide {scope}, {needed} can", None
    if p_holm > alpha:
        return UNDECIDED, "the difference is not certain", p_holm
    better = difference if unit_of(metric).higher_is_better else -difference
    return (a if better > 0 else b), "the difference is certain", p_holm


def _verdict(
    cell: str,
    axes: Mapping[str, AxisValue],
    pairs: Pairs,
    test: tuple[float, float, float, float] | None,
    family: int,
    alpha: float,
    failed: Sequence[FailedRun],
) -> CellVerdict:
    """`test`: (p, low, high, corrected p), None for pairs with a problem."""
    n = len(pairs.seeds)
    difference = float(np.mean(pairs.differences)) if n else None
    p = low = high = p_holm = None
    winner, reason = INCONCLUSIVE, pairs.problem or ""
    if test is not None:
        assert difference is not None
        if n >= seeds_needed(1, alpha):
            p, low, high = test[:3]
        winner, reason, p_holm = decide(
            difference, pairs.metric, pairs.a, pairs.b, p=p, p_holm=test[3], n=n, family=family, alpha=alpha
        )
    failures = [f"{len(failed)} run{'s' if len(failed) > 1 else ''} failed: {failed[0].error}"] if failed else []
    return CellVerdict(
        cell=cell,
        axes=axes,
        metric=pairs.metric,
        a=pairs.a,
        b=pairs.b,
        mean_a=float(np.mean(pairs.values_a)) if n else None,
        mean_b=float(np.mean(pairs.values_b)) if n else None,
        difference=difference,
        ci_low=low,
        ci_high=high,
        p=p,
        p_holm=p_holm,
        n=n,
        family=family,
        winner=winner,
        reason=reason,
        notes=(*pairs.notes, *failures),
        seeds=pairs.seeds,
        differences=pairs.differences,
    )


def cell_metrics(runs: Iterable[RunRecord], regimes: Sequence[str], alpha: float = 0.05) -> dict[str, float]:
    """MLflow metrics of one cell: ``delta/{a}-{b}/{test}/accuracy`` with ``/ci_low``, ``/ci_high`` and ``/p``.

    A regression has ``risk`` or ``loss`` in place of accuracy. p is uncorrected, because a cell in the tracker belongs to
    no family. Undefined values are left out.
    """
    records = Records(runs=tuple(runs))
    assert len({run.cell for run in records.runs}) <= 1
    metrics: dict[str, float | None] = {}
    kind = default_metric(records.runs).rpartition("/")[2]
    for test in TEST_SETS:
        for verdict in judge(records, regimes, f"test/{test}/{kind}", alpha):
            key = f"delta/{verdict.a}-{verdict.b}/{test}/{kind}"
            metrics |= {key: verdict.difference, f"{key}/ci_low": verdict.ci_low}
            metrics |= {f"{key}/ci_high": verdict.ci_high, f"{key}/p": verdict.p}
    return {name: value for name, value in metrics.items() if value is not None}


# ------------------------------------------------------------------------------------------------ verdicts in words


def format_p(p: float | None) -> str:
    """A p-value with three decimals, or as an upper bound below that."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def _p_equals(p: float) -> str:
    return "p < 0.001" if p < 0.0005 else f"p = {p:.3f}"


def sentence(verdict: CellVerdict) -> str:
    """The verdict in words: "combined wins on union by 3.2 points [1.1, 5.2], p = 0.004 (Holm over 30), n = 12 seeds".

    A winner's margin is positive; otherwise the difference is a - b.
    """
    unit, where = unit_of(verdict.metric), name_of(verdict.metric)
    where = where.removeprefix("accuracy ") if where.startswith("accuracy on ") else f"in {where}"
    if verdict.difference is None or verdict.winner == INCONCLUSIVE:
        return f"inconclusive {where}: {verdict.reason}"
    points = f" {unit.of_differences}".rstrip()
    tail = "" if verdict.p_holm is None else f", {_p_equals(verdict.p_holm)}"
    if tail and verdict.family > 1:
        tail += f" (Holm over {verdict.family})"
    tail += f", n = {verdict.n} seeds"
    if verdict.certain:
        assert verdict.ci_low is not None
        assert verdict.ci_high is not None
        ends = (verdict.ci_low, verdict.ci_high) if verdict.difference > 0 else (-verdict.ci_high, -verdict.ci_low)
        low, high = map(unit.value, ends)
        return f"{verdict.winner} wins {where} by {unit.value(abs(verdict.difference))}{points} [{low}, {high}]{tail}"
    interval = "" if verdict.ci_low is None else f" {unit.interval(verdict.ci_low, verdict.ci_high)}"
    difference = f"{verdict.a} - {verdict.b} = {unit.difference(verdict.difference)}{points}{interval}"
    text = f"undecided {where}: {difference}{tail}"
    return text if verdict.p_holm is not None else f"{text}; {verdict.reason}"


# ------------------------------------------------------------------------------------------------ all cells together


def by_pair(verdicts: Iterable[CellVerdict]) -> dict[tuple[str, str], list[CellVerdict]]:
    """The verdicts of each pair of regimes."""
    groups: dict[tuple[str, str], list[CellVerdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.a, verdict.b), []).append(verdict)
    return groups


def mean_differences(verdicts: Sequence[CellVerdict]) -> dict[int, float]:
    """a - b averaged over cells, by seed, for the seeds that every conclusive cell has."""
    by_seed = [dict(zip(v.seeds, v.differences, strict=True)) for v in verdicts if v.winner != INCONCLUSIVE]
    shared = set.intersection(*map(set, by_seed)) if by_seed else set()
    return {seed: float(np.mean([differences[seed] for differences in by_seed])) for seed in sorted(shared)}


def overall(verdicts: Iterable[CellVerdict], alpha: float = 0.05) -> Judgement | None:
    """One test over all cells for one pair of regimes, on each seed's a - b averaged over the cells.

    None without a seed that every conclusive cell has. `supported` means that a's metric is the larger.
    """
    conclusive = [verdict for verdict in verdicts if verdict.winner != INCONCLUSIVE]
    assert len(by_pair(conclusive)) <= 1
    differences = list(mean_differences(conclusive).values())
    return judge_effect(differences, "positive", alpha=alpha) if differences else None


def summary(verdicts: Sequence[CellVerdict], alpha: float = 0.05) -> str:
    """Two sentences for one pair of regimes: the number of cells that each wins, and the mean difference over all cells."""
    ((a, b),) = by_pair(verdicts)
    first = verdicts[0]
    unit, metric = unit_of(first.metric), name_of(first.metric)
    if len(verdicts) == 1:
        text = sentence(first)
        percent = f" ({unit.of_values})" if unit.of_values else ""
        means = f"{a} {unit.value(first.mean_a)}, {b} {unit.value(first.mean_b)}"
        return f"{text[0].upper()}{text[1:]}. Means over seeds{percent}: {means}."
    winners = [verdict.winner for verdict in verdicts]
    counts = f"{b} wins in {winners.count(b)} of {len(verdicts)} cells, {a} in {winners.count(a)}"
    counts += f"; {winners.count(UNDECIDED)} undecided"
    if few := sum(verdict.reason.startswith("too few seeds") for verdict in verdicts):
        counts += f", {few} of them for too few seeds ({seeds_needed(max(1, first.family), alpha)} needed)"
    if INCONCLUSIVE in winners:
        counts += f", {winners.count(INCONCLUSIVE)} inconclusive"
    lower = "" if unit.higher_is_better else " (lower is better)"
    text = f"{metric[0].upper()}{metric[1:]}{lower}, Holm over {first.family}: {counts}."
    mean = overall(verdicts, alpha)
    if mean is None:
        return f"{text} No seed finished in every cell, so there is no mean over cells."
    points = f"{unit.difference(mean.effect)} {unit.of_differences}".rstrip()
    text += f" Averaged over the cells, {a} - {b} is {points}"
    if mean.p is None:
        return f"{text} ({mean.n} seeds, too few for an interval)."
    return f"{text} {unit.interval(mean.ci_low, mean.ci_high)}, {_p_equals(mean.p)}, n = {mean.n} seeds."
