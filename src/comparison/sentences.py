"""Verdicts in words: one comparison, and all cells of a pair of regimes with their average."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from src.comparison.betting import anytime_interval, anytime_p
from src.comparison.predictions import Judgement, judge_effect
from src.comparison.statistics import ALPHA, finite, heterogeneity_p, seeds_needed
from src.comparison.units import name_of, p_equals, unit_of
from src.comparison.verdicts import BALANCED, EQUIVALENT, INCONCLUSIVE, TOO_FEW, UNDECIDED, CellVerdict, by_pair


def mean_differences(verdicts: Sequence[CellVerdict]) -> dict[int, float]:
    """a - b averaged over cells, by seed, for the seeds that every conclusive cell has."""
    by_seed = [dict(zip(v.seeds, v.differences, strict=True)) for v in verdicts if v.is_averaged]
    shared = set.intersection(*map(set, by_seed)) if by_seed else set()
    return {seed: float(np.mean([differences[seed] for differences in by_seed])) for seed in sorted(shared)}


def overall(verdicts: Iterable[CellVerdict]) -> Judgement | None:
    """One test over all cells for one pair of regimes, on each seed's a - b averaged over the cells.

    None without a seed that every conclusive cell has. `supported` means that a's metric is the larger.
    """
    conclusive = [verdict for verdict in verdicts if verdict.is_averaged]
    assert len(by_pair(conclusive)) <= 1
    differences = list(mean_differences(conclusive).values())
    if not differences:
        return None
    judgement = judge_effect(differences, "positive")
    if conclusive[0].any_stop is None or judgement.p is None:
        return judgement
    low, high = map(finite, anytime_interval(differences))
    return replace(judgement, p=float(anytime_p(differences)), ci_low=low, ci_high=high)


WHERE = {"d1": "on Dataset 1", "d2": "on Dataset 2", BALANCED: "in balanced accuracy", "RMSE": "in RMSE", "R2": "in R2"}


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
    family = f"Holm over {verdict.family}" if tail and verdict.family > 1 else ""
    if scope := ", ".join(filter(None, (family, verdict.exploratory))):
        tail += f" ({scope})"
    tail += f", n = {verdict.n} seeds"
    tail += f"; {verdict.reason}, valid at any stop" if verdict.any_stop else ""
    if verdict.no_worse:
        assert verdict.margin is not None
        shown = " and ".join(f"{regime} ({p_equals(p)})" for regime, p in verdict.no_worse.items())
        tail += f"; no worse by more than {unit.value(verdict.margin)}{points}: {shown}"
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
    return f"{verdict.winner} {where}: {difference}{tail}"


def summary(verdicts: Sequence[CellVerdict]) -> str:
    """One pair of regimes in words: wins on every test set, verdicts on the union, means over the cells."""
    ((a, b),) = by_pair(verdicts)
    first = verdicts[0]
    unit, metric = unit_of(first.metric), name_of(first.metric)
    if len(verdicts) == 1:
        text = sentence(first)
        percent = f" ({unit.of_values})" if unit.of_values else ""
        means = f"Means over seeds{percent}: {a} {unit.value(first.mean_a)}, {b} {unit.value(first.mean_b)}."
        return f"{text[0].upper()}{text[1:]}. {means} {sentence_elsewhere(first)}".rstrip()
    winners = [verdict.winner for verdict in verdicts]
    headline = _headline(verdicts)
    counts = f"{b} wins in {winners.count(b)} of {len(verdicts)} cells, {a} in {winners.count(a)}; " * (not headline)
    counts += f"{winners.count(UNDECIDED)} undecided"
    if TOO_FEW in winners:
        needed = seeds_needed(max(1, first.family))
        counts += f", {winners.count(TOO_FEW)} with too few seeds to test ({needed} needed)"
    if EQUIVALENT in winners:
        counts += f", {winners.count(EQUIVALENT)} equivalent"
    if INCONCLUSIVE in winners:
        counts += f", {winners.count(INCONCLUSIVE)} inconclusive"
    if n_scoped := sum(bool(verdict.caveat) for verdict in verdicts):
        counts += f"; {n_scoped} of the leads may be outweighed by unseen collapses"
    if first.margin is not None:
        shown = ", ".join(f"{own} in {sum(own in verdict.no_worse for verdict in verdicts)}" for own in (b, a))
        counts += f"; no worse by more than {unit.value(first.margin)} {unit.of_differences}".rstrip() + f": {shown}"
    lower = "" if unit.higher_is_better else " (lower is better)"
    sizes = {verdict.exploratory: verdict.family for verdict in verdicts}
    tested = [f"{n} ({label})" if label else f"{n}" for label, n in sorted(sizes.items()) if n]
    scope = f", Holm over {' and '.join(tested)}" if tested else ""
    text = f"{headline}{metric[0].upper()}{metric[1:]}{lower}{scope}: {counts}."
    mean = overall(verdicts)
    if mean is None:
        return f"{text} No seed finished in every cell, so there is no mean over cells."
    points = f"{unit.difference(mean.effect)} {unit.of_differences}".rstrip()
    n_averaged = sum(verdict.is_averaged for verdict in verdicts)
    cells = "the cells" if n_averaged == len(verdicts) else f"the {n_averaged} cells without collapsed or missing runs"
    text += f" Averaged over {cells}, {a} - {b} is {points}"
    if mean.p is None:
        return f"{text} ({mean.n} seeds, too few for an interval)."
    text += f" {unit.interval(mean.ci_low, mean.ci_high)}, {p_equals(mean.p)}, n = {mean.n} seeds"
    return f"{text}{_heterogeneity(verdicts)}.{_averages_elsewhere(verdicts)}"


def _headline(verdicts: Sequence[CellVerdict]) -> str:
    """The number of cells that each regime wins on the union and elsewhere, for verdicts that have both.

    The regime that wins more cells comes first.
    """
    names = list(verdicts[0].elsewhere)
    if not names:
        return ""
    won = {
        regime: [sum(verdict.winner == regime for verdict in verdicts)]
        + [sum(verdict.elsewhere[name].winner == regime for verdict in verdicts) for name in names]
        for regime in (verdicts[0].b, verdicts[0].a)
    }
    if not any(map(any, won.values())):
        return f"Neither {' nor '.join(won)} wins any of the {len(verdicts)} cells, on the union or elsewhere. "
    (first, counts), (second, others) = sorted(won.items(), key=lambda item: (-item[1][0], -sum(item[1])))
    rest = ", ".join(f"{n} {WHERE[name]}" for n, name in zip(counts[1:], names, strict=True))
    text = f"{first[0].upper()}{first[1:]} wins {counts[0]} of {len(verdicts)} cells on the union, {rest}"
    return f"{text}; {second} {', '.join(map(str, others))}. "


def _averages_elsewhere(verdicts: Sequence[CellVerdict]) -> str:
    """The averages over cells that do not rest on the union."""
    parts = []
    for name in verdicts[0].elsewhere:
        own = [verdict.elsewhere[name] for verdict in verdicts]
        if (mean := overall(own)) is not None:
            parts.append(f"{unit_of(own[0].metric).estimate(mean.effect, mean.ci_low, mean.ci_high)} {WHERE[name]}")
    return f" Averages elsewhere: {', '.join(parts)}." if parts else ""


def sentence_elsewhere(verdict: CellVerdict) -> str:
    """The verdict's comparison on the other test sets: "On Dataset 1: -12.0 points (combined); on Dataset 2: ..."."""
    text = "; ".join(
        f"{WHERE[name]}: {unit_of(own.metric).difference(own.difference)} ({own.winner})"
        for name, own in verdict.elsewhere.items()
    )
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _heterogeneity(verdicts: Sequence[CellVerdict]) -> str:
    """Whether the cells of an average differ in more than chance."""
    averaged = [verdict for verdict in verdicts if verdict.is_averaged]
    seeds = list(mean_differences(averaged))
    if len(averaged) < 2 or len(seeds) < seeds_needed(1) or averaged[0].any_stop:
        return ""
    by_seed = [dict(zip(verdict.seeds, verdict.differences, strict=True)) for verdict in averaged]
    p = heterogeneity_p([[own[seed] for seed in seeds] for own in by_seed])
    unit, means = unit_of(averaged[0].metric), [verdict.difference or 0.0 for verdict in averaged]
    spread = f"from {unit.difference(min(means))} to {unit.difference(max(means))}"
    return f"; the cells {'differ' if p <= ALPHA else 'are not shown to differ'}, {spread} ({p_equals(p)})"
