"""Decides which regime wins in each cell: paired by seed, tested by the exact sign-flip test, corrected by Holm.

The family of the correction is everything that one command declared: its cells times its pairs of regimes, for one
metric (`families`). A cell's 95 % interval inverts the uncorrected test, so in a large family it may exclude zero while
the corrected test names no winner; the winner is always that of the corrected test.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

import numpy as np

from src.axes import AxisValue
from src.comparison.betting import AnyStop, anytime_equivalence_p, anytime_interval, anytime_p
from src.comparison.collapse import UnseenCollapses, unseen_collapses
from src.comparison.families import Comparison, Family, by_comparison, pairs_of
from src.comparison.pairing import FailedRun, Pairs, Records, RunRecord, by_cell, collapses, grouped, pair
from src.comparison.statistics import ALPHA, finite, holm, is_skewed, seeds_needed, sign_flip_interval, sign_flip_p
from src.comparison.units import p_equals, unit_of

UNDECIDED = "undecided"
TOO_FEW = "too few seeds"
INCONCLUSIVE = "inconclusive"
EQUIVALENT = "equivalent"
OPEN = "nothing yet"
SKEWED = "the differences are skewed: the test assumes symmetry, so its p may be half as large as it should be"
BALANCED = "balanced"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How comparisons are tested together."""

    n_tests: int = 0
    """Size of the family when the command ends, if more than there are, for verdicts while it runs."""
    any_stop: AnyStop | None = None
    """The rule of `seeds=auto`, which has the margin of its own."""
    margin: float | None = None
    """Of the tests of non-inferiority; None if there are none."""


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
    """Label of the winning regime, or a word: "undecided", the difference is uncertain; "too few seeds", nothing was
    tested; "equivalent", certainly within the margin of `seeds=auto`; "inconclusive", see `reason`."""
    reason: str
    decided_by: str = ""
    """With `seeds=auto`: "difference", "equivalence", "collapses" or `OPEN`. Its p and interval hold at any stop."""
    exploratory: str = ""
    """Set if a later command added the comparison to its sweep: with the date."""
    caveat: str = ""
    """Of a winner: what its verdict is about if collapses that no run shows might outweigh the lead."""
    margin: float | None = None
    """Of the tests of non-inferiority."""
    no_worse: Mapping[str, float] = field(default_factory=dict)
    """The regimes shown to be worse than the other by less than the margin, if at all, with their corrected p. A
    statement of its own: the other regime may win nevertheless."""
    elsewhere: Mapping[str, CellVerdict] = field(default_factory=dict, repr=False)
    """The same comparison by other metrics (`elsewhere_of`)."""

    @property
    def is_averaged(self) -> bool:
        """Whether the cell counts in an average over cells: its differences are not those that a collapse left over."""
        return self.problem is None and bool(self.differences)

    @property
    def any_stop(self) -> AnyStop | None:
        """How an average over cells like this one is tested; None if its seeds were fixed."""
        return AnyStop() if self.decided_by else None

    @property
    def certain(self) -> bool:
        """Whether one of the regimes wins."""
        return self.winner in (self.a, self.b)


def default_metric(runs: Iterable[RunRecord]) -> str:
    """The metric that regimes are compared by unless another is given: accuracy on the union of the test sets.

    For a regression, which has no accuracy: the exact risk if every run has it, else the loss. For recorded runs
    without either: their first metric on the union.
    """
    finished = [run for run in runs if not run.diverged]
    if not finished or any(run.metric("test/union/accuracy") is not None for run in finished):
        return "test/union/accuracy"
    has_risk = all(run.metric("test/union/risk") is not None for run in finished)
    if has_risk or any(run.metric("test/union/loss") is not None for run in finished):
        return "test/union/risk" if has_risk else "test/union/loss"
    return next((name for name in finished[0].result["metrics"] if name.startswith("test/union/")), "test/union/loss")


def elsewhere_of(metric: str) -> dict[str, str]:
    """The metrics next to one of the union, since a verdict on it may rest on what is forgotten of Dataset 1."""
    kind = metric.removeprefix("test/union/")
    if kind == metric:
        return {}
    others = {"accuracy": {BALANCED: "balanced_accuracy"}, "loss": {"RMSE": "rmse", "R2": "r2"}}.get(kind, {})
    on_union = {name: f"test/union/{other}" for name, other in others.items()}
    return {"d1": f"test/d1/{kind}", "d2": f"test/d2/{kind}"} | on_union


def judge(
    records: Records,
    regimes: Sequence[str],
    metric: str | None = None,
    *,
    baseline: str | None = None,
    families: Sequence[Family] = (),
    cells: Collection[str] | None = None,
    undeclared: Rules = Rules(),
) -> list[CellVerdict]:
    """The verdict for every cell of `records` and every two of `regimes`, which are in the command's order.

    Args:
        metric: None selects `default_metric`.
        baseline: The regime that each of the others is compared with; None compares all pairs.
        families: Those of the sweep. Their comparisons are corrected together, as far as `records` has their cells.
        cells: Restricts the verdicts returned, though not the families; None for all.
        undeclared: The rules of comparisons that no family contains.
    """
    metric = metric or default_metric(records.runs)
    runs, failed = by_cell(records.runs), by_cell(records.failed)
    axes = {run.cell: run.axes for run in records.attempted}
    present = sorted(axes if cells is None else axes.keys() & cells)
    wanted = [(cell, a, b) for cell, (a, b) in product(present, pairs_of(regimes, baseline))]
    family_of = by_comparison(families)
    touched = {family_of[comparison] for comparison in wanted if comparison in family_of}
    others = {comparison for family in touched for comparison in family.comparisons if comparison[0] in axes}
    judged: dict[Comparison, CellVerdict] = {}
    for family, members in grouped([*wanted, *sorted(others.difference(wanted))], family_of.get).items():
        compared = [(cell, axes[cell], _pair(runs, failed, cell, a, b, metric)) for cell, a, b in members]
        label, rules = "", undeclared
        if family is not None:
            n_lost = sum(pairs.problem is not None for *_, pairs in compared)
            n_tests = len(family.comparisons) - (n_lost if family.any_stop is None else 0)  # a lost cell may return
            label, rules = family.label, Rules(n_tests=n_tests, any_stop=family.any_stop, margin=family.margin)
        verdicts = judge_pairs(compared, rules)
        judged |= {key: replace(own, exploratory=label) for key, own in zip(members, verdicts, strict=True)}
    unseen = {regime: _unseen(runs.values(), regime, metric) for regime in regimes}
    own_verdicts = [judged[comparison] for comparison in wanted]
    return [_scoped(verdict, unseen[verdict.winner]) if verdict.certain else verdict for verdict in own_verdicts]


def judge_test_sets(records: Records, regimes: Sequence[str], **rules: Any) -> list[CellVerdict]:
    """The verdicts on the union, each with those on the other test sets. `rules`: further arguments of `judge`."""
    verdicts = judge(records, regimes, **rules)
    names = elsewhere_of(verdicts[0].metric) if verdicts else {}
    others = {name: judge(records, regimes, metric, **rules) for name, metric in names.items()}
    found = {name: own for name, own in others.items() if any(verdict.difference is not None for verdict in own)}
    return [replace(own, elsewhere={name: of[k] for name, of in found.items()}) for k, own in enumerate(verdicts)]


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

    Withheld if runs of it collapse in other cells; if none does anywhere, the verdict holds barring collapses.
    """
    unit, lead = unit_of(verdict.metric), abs(verdict.difference or 0.0)
    if lead > unseen.cost or not (unseen.n_collapsed or unit.higher_is_better):
        return verdict
    up_to = f"up to {100 * unseen.share:.0f} % may"
    if not unseen.n_collapsed:
        seen = f"none of {unseen.n_runs} runs of {verdict.winner} collapsed"
        caveat = f"barring collapses: {seen}, which leaves a share of up to {100 * unseen.share:.0f} % possible"
        return replace(verdict, caveat=caveat)
    reason = f"{verdict.winner} leads by {unit.value(lead)}{f' {unit.of_differences}'.rstrip()} here, but runs of it "
    reason += f"collapse in other cells: {up_to}, which would lower its mean by {unit.value(unseen.cost)}"
    decided_by = verdict.decided_by and "collapses"
    return replace(verdict, winner=INCONCLUSIVE, reason=reason, p_holm=None, decided_by=decided_by, no_worse={})


def judge_pairs(
    compared: Sequence[tuple[str, Mapping[str, AxisValue], Pairs]], rules: Rules = Rules()
) -> list[CellVerdict]:
    """The verdicts on pairs, each given with its cell and axes, corrected over all of them that have no problem."""
    testable = [pairs for *_, pairs in compared if pairs.problem is None]
    family = max(len(testable), rules.n_tests)
    decisions = iter(_decisions(testable, rules, family))
    verdicts = []
    for cell, axes, pairs in compared:
        found: dict[str, Any] = {"winner": INCONCLUSIVE, "reason": pairs.problem}
        if pairs.problem is None:
            found = next(decisions)
        elif rules.any_stop is not None:
            found["decided_by"] = "collapses" if any(pairs.collapsed) else OPEN
        own = {attribute.name: getattr(pairs, attribute.name) for attribute in fields(pairs)}
        verdict = CellVerdict(cell=cell, axes=axes, family=family, **own, **found)
        if verdict.certain and is_skewed(pairs.differences):
            verdict = replace(verdict, notes=(*verdict.notes, SKEWED))
        verdicts.append(verdict)
    return verdicts


def _decisions(testable: Sequence[Pairs], rules: Rules, family: int) -> list[dict[str, Any]]:
    """What the tests add to the verdict on each of the comparisons without a problem."""
    any_stop = rules.any_stop
    margin = rules.margin if any_stop is None else any_stop.margin
    tests = _test(testable, any_stop)
    corrected = holm([p for p, _, _ in tests], n_tests=family).tolist()
    equivalent, no_worse = _equivalences(testable, any_stop, family), _no_worse(testable, margin, any_stop, family)
    decisions = []
    for pairs, test, p_holm, p_equivalent, own in zip(testable, tests, corrected, equivalent, no_worse, strict=True):
        if any_stop is not None:
            found = {"p_holm": p_holm} | _any_stop_decision(pairs, p_holm, p_equivalent, any_stop)
        else:
            found = _decision(pairs, p_holm, family)
        if any_stop is not None or pairs.n >= seeds_needed(1):
            p, low, high = test
            found |= {"p": p, "ci_low": finite(low), "ci_high": finite(high)}
        decisions.append(found | {"margin": margin, "no_worse": own})
    return decisions


def _test(testable: Sequence[Pairs], any_stop: AnyStop | None) -> list[tuple[float, float, float]]:
    """(p, low, high) of each comparison; those with equally many seeds are computed together."""
    p_of, interval_of = (sign_flip_p, sign_flip_interval) if any_stop is None else (anytime_p, anytime_interval)
    tests: dict[int, tuple[float, float, float]] = {}
    for indices in grouped(range(len(testable)), lambda index: testable[index].n).values():
        differences = np.array([testable[index].differences for index in indices])
        columns = [values.tolist() for values in (p_of(differences), *interval_of(differences))]
        tests |= dict(zip(indices, zip(*columns, strict=True), strict=True))
    return [tests[index] for index in range(len(testable))]


def _equivalences(testable: Sequence[Pairs], any_stop: AnyStop | None, family: int) -> list[float]:
    """Corrected p of "within the margin" for each comparison: a question, hence a family, of its own."""
    if any_stop is None or any_stop.margin is None:
        return [1.0] * len(testable)
    p_values = [float(anytime_equivalence_p(pairs.differences, any_stop.margin)) for pairs in testable]
    return list(map(float, holm(p_values, n_tests=family)))


def _no_worse(
    testable: Sequence[Pairs], margin: float | None, any_stop: AnyStop | None, family: int
) -> list[dict[str, float]]:
    """The regimes of each comparison that are certainly worse by less than the margin, with their p.

    A family of its own, of both regimes of every comparison; at most one of a comparison's two can be worse by the
    margin.
    """
    if margin is None:
        return [{}] * len(testable)
    p_of = sign_flip_p if any_stop is None else anytime_p
    p_values = []
    for pairs in testable:
        lead = unit_of(pairs.metric).sign * np.array(pairs.differences)
        p_values += [float(p_of(side * lead, null=-margin, alternative="greater")) for side in (1, -1)]
    corrected = iter(holm(p_values, n_tests=2 * family, most_true=family).tolist())
    both = [{pairs.a: next(corrected), pairs.b: next(corrected)} for pairs in testable]
    return [{regime: p for regime, p in one.items() if p <= ALPHA} for one in both]


def _any_stop_decision(pairs: Pairs, p_holm: float, p_equivalent: float, any_stop: AnyStop) -> dict[str, Any]:
    """Winner, reason and what decided, with `seeds=auto`."""
    assert pairs.difference is not None
    unit, after = unit_of(pairs.metric), f"after {pairs.n} seed{'s' if pairs.n > 1 else ''}"
    side = anytime_p(pairs.differences, alternative="greater" if pairs.difference > 0 else "less")
    if p_holm <= ALPHA and side <= ALPHA:
        return {"winner": pairs.leader, "reason": f"decided by the difference {after}", "decided_by": "difference"}
    if p_equivalent <= ALPHA:
        within = f"within {unit.value(any_stop.margin)} {unit.of_differences}".rstrip()
        reason = f"decided by equivalence {after}: {within}, {p_equals(p_equivalent)}"
        return {"winner": EQUIVALENT, "reason": reason, "decided_by": "equivalence"}
    return {"winner": UNDECIDED, "reason": f"undecided {after}", "decided_by": OPEN}


def _decision(pairs: Pairs, p_holm: float, family: int) -> dict[str, Any]:
    """Winner, reason and corrected p of a tested comparison; without the p if the seeds are too few for the family."""
    n, needed = pairs.n, seeds_needed(family)
    if n < seeds_needed(1) or (p_holm > ALPHA and n < needed):
        scope = "a comparison" if family == 1 else f"{family} comparisons at once"
        return {"winner": TOO_FEW, "reason": f"too few seeds: {n} cannot decide {scope}, {needed} can"}
    if p_holm > ALPHA:
        return {"winner": UNDECIDED, "reason": "the difference is not certain", "p_holm": p_holm}
    return {"winner": pairs.leader, "reason": "the difference is certain", "p_holm": p_holm}


def by_pair(verdicts: Iterable[CellVerdict]) -> dict[tuple[str, str], list[CellVerdict]]:
    """The verdicts of each pair of regimes."""
    return grouped(verdicts, lambda verdict: (verdict.a, verdict.b))
