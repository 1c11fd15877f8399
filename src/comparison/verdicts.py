"""Who wins in each cell: paired by seed, decided by the exact sign-flip test, Holm-corrected over all that is asked.

The family of the correction is everything one command puts on the table: its cells times its pairs of regimes, for one
metric. The 95 % interval of a cell is the inversion of the uncorrected test, so in a large family it may leave zero out
where the corrected test does not yet name a winner; the winner is always the corrected test's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from src.comparison.pairing import Axis, FailedRun, Pairs, Records, RunRecord, by_cell, pair
from src.comparison.predictions import Judgement, judge_effect
from src.comparison.statistics import holm, seeds_needed, sign_flip_interval, sign_flip_p
from src.comparison.units import name_of, unit_of

UNDECIDED = "undecided"
INCONCLUSIVE = "inconclusive"
TESTS = ("d1", "d2", "union")


@dataclass(frozen=True, kw_only=True, slots=True)
class CellVerdict:
    """Two regimes in one cell. All values are in the metric's own unit; `difference` is the mean of a - b over seeds.

    None stands for what cannot be said: the means without a pair, interval and p with too few seeds or a diverged run.
    """

    cell: str
    axes: Mapping[str, Axis]
    metric: str
    a: str
    b: str
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    """Two-sided sign-flip p of this cell alone; None where so few seeds could not make it small."""
    p_holm: float | None
    """Corrected over the family; None where so few seeds could not make it small in a family of this size."""
    n: int
    family: int
    """How many comparisons the correction spans."""
    winner: str
    """Label of the regime that wins, "undecided" (not certain) or "inconclusive" (cannot be judged: see `reason`)."""
    reason: str
    notes: tuple[str, ...]
    seeds: tuple[int, ...] = field(repr=False)
    differences: tuple[float, ...] = field(repr=False)
    """a - b for each of `seeds`."""

    @property
    def certain(self) -> bool:
        """A winner is named."""
        return self.winner in (self.a, self.b)


def metric_of(runs: Iterable[RunRecord]) -> str:
    """What regimes are compared by unless somebody says otherwise: accuracy on the union; where accuracy has no meaning
    (regression) the exact risk, if every run knows it, else the loss. Of risk and loss the lower is the better."""
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
    n_claims: int | None = None,
) -> list[CellVerdict]:
    """Verdict for every cell of `records` and every two of `regimes` (labels, in the command's order).

    `metric`: None means that of `metric_of`. `n_claims`: size the family will have once the command is through, for verdicts while it runs; else the number of
    comparisons that have pairs.
    """
    metric = metric or metric_of(records.runs)
    cells = by_cell(records.runs)
    axes = {run.cell: run.axes for run in records.runs} | {failure.cell: failure.axes for failure in records.failed}
    failures: dict[str, list[FailedRun]] = {}
    for failure in records.failed:
        failures.setdefault(failure.cell, []).append(failure)
    found = [
        (cell, pair(cells.get(cell, ()), a, b, metric)) for cell in sorted(axes) for a, b in combinations(regimes, 2)
    ]
    judged = [pairs for _, pairs in found if pairs.problem is None]
    raw = _tests(judged, alpha)
    family = max(len(judged), n_claims or 0)
    adjusted = holm([p for p, _, _ in raw], n_claims=family)
    outcome = {id(pairs): (*test, float(p)) for pairs, test, p in zip(judged, raw, adjusted, strict=True)}
    return [
        _verdict(cell, axes[cell], pairs, outcome.get(id(pairs)), family, alpha, failures.get(cell, []))
        for cell, pairs in found
    ]


def _tests(judged: Sequence[Pairs], alpha: float) -> list[tuple[float, float, float]]:
    """(p, low, high) of each, those with equally many seeds together."""
    by_n: dict[int, list[int]] = {}
    for index, pairs in enumerate(judged):
        by_n.setdefault(len(pairs.seeds), []).append(index)
    tests: list[tuple[float, float, float]] = [(1.0, -math.inf, math.inf)] * len(judged)
    for indices in by_n.values():
        differences = np.array([judged[index].differences for index in indices])
        low, high = sign_flip_interval(differences, alpha=alpha)
        for index, *test in zip(indices, sign_flip_p(differences), low, high, strict=True):
            tests[index] = (float(test[0]), float(test[1]), float(test[2]))
    return tests


def _verdict(
    cell: str,
    axes: Mapping[str, Axis],
    pairs: Pairs,
    outcome: tuple[float, float, float, float] | None,
    family: int,
    alpha: float,
    failures: Sequence[FailedRun],
) -> CellVerdict:
    n = len(pairs.seeds)
    difference = float(np.mean(pairs.differences)) if n else None
    p = p_holm = low = high = None
    winner, reason = INCONCLUSIVE, pairs.problem or ""
    if outcome is not None:
        assert difference is not None
        raw, ci_low, ci_high, corrected = outcome
        if n >= seeds_needed(1, alpha):
            p, low, high = raw, ci_low, ci_high
        needed = seeds_needed(family, alpha)
        if p is not None and (corrected <= alpha or n >= needed):
            p_holm = corrected
        if p_holm is not None and p_holm <= alpha:
            better = difference if unit_of(pairs.metric).higher_is_better else -difference
            winner, reason = (pairs.a if better > 0 else pairs.b), "the difference is certain"
        elif p_holm is not None:
            winner, reason = UNDECIDED, "the difference is not certain"
        else:
            scope = "a comparison" if family == 1 else f"{family} comparisons at once"
            winner, reason = UNDECIDED, f"too few seeds: {n} cannot decide {scope}, {needed} can"
    failed = [failure for failure in failures if failure.regime in (pairs.a, pairs.b)]
    notes = pairs.notes
    if failed:
        notes = (*notes, f"{len(failed)} run{'s' if len(failed) > 1 else ''} failed: {failed[0].error}")
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
        notes=notes,
        seeds=pairs.seeds,
        differences=pairs.differences,
    )


def cell_metrics(runs: Iterable[RunRecord], regimes: Sequence[str], alpha: float = 0.05) -> dict[str, float]:
    """MLflow metrics of one cell: ``delta/{a}-{b}/{test}/accuracy`` and its ``/ci_low``, ``/ci_high``, ``/p``; in place of
    accuracy a regression has ``risk`` or ``loss``.

    p is the cell's own (a tracker's cell knows no family). What cannot be said is left out.
    """
    records = Records(runs=tuple(runs))
    assert len({run.cell for run in records.runs}) <= 1
    metrics: dict[str, float] = {}
    kind = metric_of(records.runs).rpartition("/")[2]
    for test in TESTS:
        for verdict in judge(records, regimes, f"test/{test}/{kind}", alpha):
            key = f"delta/{verdict.a}-{verdict.b}/{test}/{kind}"
            named = {
                key: verdict.difference,
                f"{key}/ci_low": verdict.ci_low,
                f"{key}/ci_high": verdict.ci_high,
                f"{key}/p": verdict.p,
            }
            metrics |= {name: value for name, value in named.items() if value is not None}
    return metrics


def format_p(p: float | None) -> str:
    """A p-value with three decimals, or as an upper bound below that."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def sentence(verdict: CellVerdict) -> str:
    """The verdict in words: "combined wins on union by 3.2 points [1.1, 5.2], p = 0.004 (Holm over 30), n = 12 seeds".

    A winner's margin is given in its favour; otherwise the difference is a - b.
    """
    unit, where = unit_of(verdict.metric), name_of(verdict.metric)
    where = where.removeprefix("accuracy ") if where.startswith("accuracy on ") else f"in {where}"
    of = f" {unit.of_differences}".rstrip()
    if verdict.difference is None or verdict.winner == INCONCLUSIVE:
        return f"inconclusive {where}: {verdict.reason}"
    shown_p = "" if verdict.p_holm is None else f", p {_equals(verdict.p_holm)}"
    if shown_p and verdict.family > 1:
        shown_p += f" (Holm over {verdict.family})"
    tail = f"{shown_p}, n = {verdict.n} seeds"
    if verdict.certain:
        assert verdict.ci_low is not None
        assert verdict.ci_high is not None
        low, high = verdict.ci_low, verdict.ci_high
        in_favour = (low, high) if verdict.difference > 0 else (-high, -low)
        ends = ", ".join(unit.value(end) for end in in_favour)
        return f"{verdict.winner} wins {where} by {unit.value(abs(verdict.difference))}{of} [{ends}]{tail}"
    interval = "" if verdict.ci_low is None else f" {unit.interval(verdict.ci_low, verdict.ci_high)}"
    text = f"undecided {where}: {verdict.a} - {verdict.b} = {unit.difference(verdict.difference)}{of}{interval}{tail}"
    return text if verdict.p_holm is not None else f"{text}; {verdict.reason}"


def _equals(p: float) -> str:
    text = format_p(p)
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"


# ------------------------------------------------------------------------------------------------ all cells together


def contrasts(verdicts: Iterable[CellVerdict]) -> dict[tuple[str, str], list[CellVerdict]]:
    """The verdicts of each two regimes."""
    groups: dict[tuple[str, str], list[CellVerdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.a, verdict.b), []).append(verdict)
    return groups


def overall(verdicts: Iterable[CellVerdict], alpha: float = 0.05) -> Judgement | None:
    """One test for one pair of regimes over all cells: a seed's number is its a - b averaged over the cells.

    Only seeds that every conclusive cell has; None if there is none. `supported` says that a's metric is the larger.
    """
    conclusive = [verdict for verdict in verdicts if verdict.winner != INCONCLUSIVE]
    assert len(contrasts(conclusive)) <= 1
    if not conclusive:
        return None
    shared = sorted(set.intersection(*(set(verdict.seeds) for verdict in conclusive)))
    if not shared:
        return None
    of_cell = [dict(zip(verdict.seeds, verdict.differences, strict=True)) for verdict in conclusive]
    return judge_effect([float(np.mean([cell[seed] for cell in of_cell])) for seed in shared], "positive", alpha=alpha)


def summary(verdicts: Sequence[CellVerdict], alpha: float = 0.05) -> str:
    """Two sentences for one pair of regimes: who wins in how many cells, and by how much over all of them."""
    ((a, b),) = contrasts(verdicts)
    unit, where = unit_of(verdicts[0].metric), name_of(verdicts[0].metric)
    n_of = {
        word: sum(verdict.winner == word for verdict in verdicts)
        for word in dict.fromkeys((a, b, UNDECIDED, INCONCLUSIVE))
    }
    n_cells = len(verdicts)
    if n_cells == 1:
        first = f"{sentence(verdicts[0])}."
        means = (f"{label} {unit.value(mean)}" for label, mean in ((a, verdicts[0].mean_a), (b, verdicts[0].mean_b)))
        of = f" ({unit.of_values})" if unit.of_values else ""
        return f"{first[0].upper()}{first[1:]} Means over seeds{of}: {', '.join(means)}."
    counted = f"{b} wins in {n_of[b]} of {n_cells} cells, {a} in {n_of[a]}; {n_of[UNDECIDED]} undecided"
    few = sum(verdict.reason.startswith("too few seeds") for verdict in verdicts)
    if few:
        counted += f", {few} of them for want of seeds ({seeds_needed(max(1, verdicts[0].family), alpha)} needed)"
    if n_of[INCONCLUSIVE]:
        counted += f", {n_of[INCONCLUSIVE]} inconclusive"
    better = "" if unit.higher_is_better else " (lower is better)"
    first = f"{where[0].upper()}{where[1:]}{better}, Holm over {verdicts[0].family}: {counted}."
    whole = overall(verdicts, alpha)
    if whole is None:
        return f"{first} No seed finished in every cell, so there is no mean over them."
    difference = f"{unit.difference(whole.effect)} {unit.of_differences}".rstrip()
    if whole.p is None:
        return f"{first} Averaged over the cells {a} - {b} is {difference} ({whole.n} seeds, too few for an interval)."
    return (
        f"{first} Averaged over the cells {a} - {b} is {difference} {unit.interval(whole.ci_low, whole.ci_high)}, "
        f"p {_equals(whole.p)}, n = {whole.n} seeds."
    )
