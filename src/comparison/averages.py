"""Averages over the cells of two regimes: one number for each seed, and one test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from src.comparison.betting import anytime_interval, anytime_p
from src.comparison.predictions import Judgement, judge_effect
from src.comparison.statistics import finite
from src.comparison.verdicts import CellVerdict, by_pair


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
