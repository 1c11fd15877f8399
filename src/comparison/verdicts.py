"""Decides which regime wins in each cell: paired by seed, tested by the exact sign-flip test, corrected by Holm.

The family of the correction is everything that one command declared: its cells times its pairs of regimes, for one metric
(`families`).
A cell's 95 % interval inverts the uncorrected test, so in a large family it may exclude zero while the corrected test names
no winner; the winner is always that of the corrected test.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import numpy as np

from src.axes import AxisValue
from src.comparison.collapse import UnseenCollapses, unseen_collapses
from src.comparison.families import Comparison, Family, by_comparison, pairs_of
from src.comparison.pairing import FailedRun, Pairs, Records, RunRecord, by_cell, collapses, grouped, pair
from src.comparison.predictions import Judgement, judge_effect
from src.comparison.statistics import heterogeneity_p, holm, is_skewed, seeds_needed, sign_flip_interval, sign_flip_p
from src.comparison.units import name_of, p_equals, unit_of

UNDECIDED = "undecided"
TOO_FEW = "too few seeds"
INCONCLUSIVE = "inconclusive"
SKEWED = "the differences are skewed: the test assumes symmetry, so its p may be half as large as it should be"
TEST_SETS = ("d1", "d2", "union")


@dataclass(frozen=True, kw_only=True, slots=True)
class CellVerdict(Pairs):
    """The comparison of two regimes in one cell. All values are in the metric's own unit.

    Interval and p are None with too few seeds or a diverged run.
    """

    cell: str
    axes: Mapping[str, AxisValue]
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    """Two-sided sign-flip p of this cell alone; None if so few seeds cannot make it small."""
    p_holm: float | None = None
    """Corrected over the family; None if so few seeds cannot make it small in a family of this size."""
    family: int
    """Number of comparisons that the correction spans."""
    winner: str
    """Label of the winning regime, or a word: "undecided", the difference is uncertain; "too few seeds", nothing was tested;
    "inconclusive", see `reason`."""
    reason: str
    exploratory: str = ""
    """Set if a later command added the comparison to its sweep: with the date."""
    caveat: str = ""
    """Of a winner: what its verdict is about if collapses that no run shows might outweigh the lead."""

    @property
    def is_averaged(self) -> bool:
        """Whether the cell counts in an average over cells: its differences are not those that a collapse left over."""
        return self.problem is None and bool(self.differences)

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
    n_tests: int = 0,
    baseline: str | None = None,
    families: Sequence[Family] = (),
    cells: Collection[str] | None = None,
) -> list[CellVerdict]:
    """The verdict for every cell of `records` and every two of `regimes`, which are in the command's order.

    Args:
        metric: None selects `default_metric`.
        n_tests: See `judge_pairs`; of comparisons that no family contains.
        baseline: The regime that each of the others is compared with; None compares all pairs.
        families: Those of the sweep. Their comparisons are corrected together, as far as `records` has their cells.
        cells: Restricts the verdicts returned, though not the families; None for all.
    """
    metric = metric or default_metric(records.runs)
    runs, failed = by_cell(records.runs), by_cell(records.failed)
    axes = {run.cell: run.axes for run in records.attempted}
    wanted = [
        (cell, a, b) for cell, (a, b) in product(sorted(axes if cells is None else cells), pairs_of(regimes, baseline))
    ]
    wanted = [comparison for comparison in wanted if comparison[0] in axes]
    family_of = by_comparison(families)
    touched = {family_of[comparison] for comparison in wanted if comparison in family_of}
    others = {comparison for family in touched for comparison in family.comparisons if comparison[0] in axes}
    judged: dict[Comparison, CellVerdict] = {}
    for family, members in grouped([*wanted, *sorted(others.difference(wanted))], family_of.get).items():
        compared = [(cell, axes[cell], _pair(runs, failed, cell, a, b, metric)) for cell, a, b in members]
        n_lost = sum(pairs.problem is not None for *_, pairs in compared)
        n_declared = n_tests if family is None else len(family.comparisons) - n_lost
        verdicts = judge_pairs(compared, alpha, n_tests=n_declared)
        label = "" if family is None else family.label
        judged |= {key: replace(own, exploratory=label) for key, own in zip(members, verdicts, strict=True)}
    unseen = {regime: _unseen(runs.values(), regime, metric) for regime in regimes}
    own_verdicts = [judged[comparison] for comparison in wanted]
    return [_scoped(verdict, unseen[verdict.winner]) if verdict.certain else verdict for verdict in own_verdicts]


def _pair(
    runs: Mapping[str, list[RunRecord]], failed: Mapping[str, list[FailedRun]], cell: str, a: str, b: str, metric: str
) -> Pairs:
    """The pairs of one comparison, with a note on runs that failed."""
    pairs = pair(runs.get(cell, ()), a, b, metric)
    if errors := [run.error for run in failed.get(cell, ()) if run.regime in (a, b)]:
        note = f"{len(errors)} run{'s' if len(errors) > 1 else ''} failed: {errors[0]}"
        pairs = replace(pairs, notes=(*pairs.notes, note))
    return pairs


def _unseen(cells: Iterable[Sequence[RunRecord]], regime: str, metric: str) -> UnseenCollapses:
    """The collapses to expect of a regime, from its runs in all cells."""
    trained: list[float] = []
    collapsed: list[float] = []
    n_collapsed = 0
    for runs in cells:
        own = [run for run in runs if run.regime == regime]
        failed = collapses(own, metric).get(regime, {})
        n_collapsed += len(failed)
        for run in own:
            if (value := run.metric(metric)) is not None:
                (collapsed if run.seed in failed else trained).append(value)
    return unseen_collapses(trained, collapsed, n_collapsed)


def _scoped(verdict: CellVerdict, unseen: UnseenCollapses) -> CellVerdict:
    """A winner's verdict where collapses that its cell does not show may outweigh its lead.

    Withheld if runs of it collapse in other cells; if none does anywhere, the verdict is about the runs that train.
    """
    unit, lead = unit_of(verdict.metric), abs(verdict.difference or 0.0)
    if lead > unseen.cost or not (unseen.n_collapsed or unit.higher_is_better):
        return verdict
    up_to = f"up to {100 * unseen.share:.0f} % may"
    if not unseen.n_collapsed:
        caveat = f"about runs that train: none of {unseen.n_runs} runs of {verdict.winner} collapsed, so {up_to}"
        return replace(verdict, caveat=caveat)
    reason = f"{verdict.winner} leads by {unit.value(lead)}{f' {unit.of_differences}'.rstrip()} here, but runs of it collapse "
    reason += f"in other cells: {up_to}, which would lower its mean by {unit.value(unseen.cost)}"
    return replace(verdict, winner=INCONCLUSIVE, reason=reason, p_holm=None)


def judge_pairs(
    compared: Sequence[tuple[str, Mapping[str, AxisValue], Pairs]], alpha: float = 0.05, *, n_tests: int = 0
) -> list[CellVerdict]:
    """The verdicts on pairs, each given with its cell and axes, corrected over all of them that have no problem.

    `n_tests`: size of the family when the command ends, for verdicts while it runs.
    """
    testable = [pairs for *_, pairs in compared if pairs.problem is None]
    tests = _test(testable, alpha)
    family = max(len(testable), n_tests)
    tested = zip(tests, holm([p for p, _, _ in tests], n_tests=family), strict=True)
    verdicts = []
    for cell, axes, pairs in compared:
        found: dict[str, Any] = {"winner": INCONCLUSIVE, "reason": pairs.problem}
        if pairs.problem is None:
            test, p_holm = next(tested)
            if pairs.n >= seeds_needed(1, alpha):
                found = dict(zip(("p", "ci_low", "ci_high"), test, strict=True))
            found |= _decision(pairs, float(p_holm), family, alpha)
        own = {attribute.name: getattr(pairs, attribute.name) for attribute in fields(pairs)}
        verdict = CellVerdict(cell=cell, axes=axes, family=family, **own, **found)
        if verdict.certain and is_skewed(pairs.differences):
            verdict = replace(verdict, notes=(*verdict.notes, SKEWED))
        verdicts.append(verdict)
    return verdicts


def _test(testable: Sequence[Pairs], alpha: float) -> list[tuple[float, float, float]]:
    """(p, low, high) of each comparison; those with equally many seeds are computed together."""
    tests: dict[int, tuple[float, float, float]] = {}
    for indices in grouped(range(len(testable)), lambda index: testable[index].n).values():
        differences = np.array([testable[index].differences for index in indices])
        columns = [
            values.tolist() for values in (sign_flip_p(differences), *sign_flip_interval(differences, alpha=alpha))
        ]
        tests |= dict(zip(indices, zip(*columns, strict=True), strict=True))
    return [tests[index] for index in range(len(testable))]


def _decision(pairs: Pairs, p_holm: float, family: int, alpha: float) -> dict[str, str | float]:
    """Winner, reason and corrected p of a tested comparison; without the p if the seeds are too few for the family."""
    n, difference, needed = pairs.n, pairs.difference, seeds_needed(family, alpha)
    assert difference is not None
    if n < seeds_needed(1, alpha) or (p_holm > alpha and n < needed):
        scope = "a comparison" if family == 1 else f"{family} comparisons at once"
        return {"winner": TOO_FEW, "reason": f"too few seeds: {n} cannot decide {scope}, {needed} can"}
    if p_holm > alpha:
        return {"winner": UNDECIDED, "reason": "the difference is not certain", "p_holm": p_holm}
    is_a_better = (difference > 0) == unit_of(pairs.metric).higher_is_better
    winner = pairs.a if is_a_better else pairs.b
    return {"winner": winner, "reason": "the difference is certain", "p_holm": p_holm}


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


def sentence(verdict: CellVerdict) -> str:
    """The verdict in words: "combined wins on union by 3.2 points [1.1, 5.2], p = 0.004 (Holm over 30), n = 12 seeds".

    A winner's margin is positive; otherwise the difference is a - b.
    """
    unit, where = unit_of(verdict.metric), name_of(verdict.metric)
    where = where.removeprefix("accuracy ") if where.startswith("accuracy on ") else f"in {where}"
    if verdict.difference is None or verdict.winner == INCONCLUSIVE:
        return f"inconclusive {where}: {verdict.reason}"
    points = f" {unit.of_differences}".rstrip()
    tail = "" if verdict.p_holm is None else f", {p_equals(verdict.p_holm)}"
    scope = [f"Holm over {verdict.family}"] * (bool(tail) and verdict.family > 1) + [verdict.exploratory]
    tail += f" ({', '.join(scope)})" if (scope := [*filter(None, scope)]) else ""
    tail += f", n = {verdict.n} seeds"
    if verdict.certain:
        assert verdict.ci_low is not None
        assert verdict.ci_high is not None
        ends = (verdict.ci_low, verdict.ci_high) if verdict.difference > 0 else (-verdict.ci_high, -verdict.ci_low)
        low, high = map(unit.value, ends)
        tail += f" ({verdict.caveat})" if verdict.caveat else ""
        return f"{verdict.winner} wins {where} by {unit.value(abs(verdict.difference))}{points} [{low}, {high}]{tail}"
    interval = "" if verdict.ci_low is None else f" {unit.interval(verdict.ci_low, verdict.ci_high)}"
    difference = f"{verdict.a} - {verdict.b} = {unit.difference(verdict.difference)}{points}{interval}"
    if verdict.winner == TOO_FEW:
        spread = f", spread {unit.value(float(np.std(verdict.differences, ddof=1)))}" if verdict.n > 1 else ""
        return f"{TOO_FEW} to test {where}: {difference}{spread}; {verdict.reason.partition(': ')[2]}"
    return f"undecided {where}: {difference}{tail}"


def by_pair(verdicts: Iterable[CellVerdict]) -> dict[tuple[str, str], list[CellVerdict]]:
    """The verdicts of each pair of regimes."""
    return grouped(verdicts, lambda verdict: (verdict.a, verdict.b))


def mean_differences(verdicts: Sequence[CellVerdict]) -> dict[int, float]:
    """a - b averaged over cells, by seed, for the seeds that every conclusive cell has."""
    by_seed = [dict(zip(v.seeds, v.differences, strict=True)) for v in verdicts if v.is_averaged]
    shared = set.intersection(*map(set, by_seed)) if by_seed else set()
    return {seed: float(np.mean([differences[seed] for differences in by_seed])) for seed in sorted(shared)}


def overall(verdicts: Iterable[CellVerdict], alpha: float = 0.05) -> Judgement | None:
    """One test over all cells for one pair of regimes, on each seed's a - b averaged over the cells.

    None without a seed that every conclusive cell has. `supported` means that a's metric is the larger.
    """
    conclusive = [verdict for verdict in verdicts if verdict.is_averaged]
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
    if TOO_FEW in winners:
        needed = seeds_needed(max(1, first.family), alpha)
        counts += f", {winners.count(TOO_FEW)} with too few seeds to test ({needed} needed)"
    if INCONCLUSIVE in winners:
        counts += f", {winners.count(INCONCLUSIVE)} inconclusive"
    if n_scoped := sum(bool(verdict.caveat) for verdict in verdicts):
        counts += f"; {n_scoped} {'lead' if n_scoped > 1 else 'leads'} in runs that train, unless unseen collapses outweigh it"
    lower = "" if unit.higher_is_better else " (lower is better)"
    sizes = {verdict.exploratory: verdict.family for verdict in verdicts}
    holm_over = " and ".join(f"{n} ({label})" if label else f"{n}" for label, n in sorted(sizes.items()))
    text = f"{metric[0].upper()}{metric[1:]}{lower}, Holm over {holm_over}: {counts}."
    mean = overall(verdicts, alpha)
    if mean is None:
        return f"{text} No seed finished in every cell, so there is no mean over cells."
    points = f"{unit.difference(mean.effect)} {unit.of_differences}".rstrip()
    n_averaged = sum(verdict.is_averaged for verdict in verdicts)
    cells = "the cells" if n_averaged == len(verdicts) else f"the {n_averaged} cells without collapsed or missing runs"
    text += f" Averaged over {cells}, {a} - {b} is {points}"
    if mean.p is None:
        return f"{text} ({mean.n} seeds, too few for an interval)."
    text += f" {unit.interval(mean.ci_low, mean.ci_high)}, {p_equals(mean.p)}, n = {mean.n} seeds"
    return f"{text}{_heterogeneity(verdicts, alpha)}."


def _heterogeneity(verdicts: Sequence[CellVerdict], alpha: float) -> str:
    """Whether the cells of an average differ in more than chance."""
    averaged = [verdict for verdict in verdicts if verdict.is_averaged]
    seeds = list(mean_differences(averaged))
    if len(averaged) < 2 or len(seeds) < seeds_needed(1, alpha):
        return ""
    by_seed = [dict(zip(verdict.seeds, verdict.differences, strict=True)) for verdict in averaged]
    p = heterogeneity_p([[own[seed] for seed in seeds] for own in by_seed])
    unit, means = unit_of(averaged[0].metric), [verdict.difference or 0.0 for verdict in averaged]
    spread = f"from {unit.difference(min(means))} to {unit.difference(max(means))}"
    return f"; the cells {'differ' if p <= alpha else 'are not shown to differ'}, {spread} ({p_equals(p)})"
