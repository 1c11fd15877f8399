"""Best-of-k curves: against all subsets, and their bands against known distributions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from src.comparison.tuning import best_of, best_of_band


def test_the_expected_best_of_k_is_the_mean_over_all_subsets() -> None:
    scores = [0.3, 0.9, 0.1, 0.5, 0.5, 0.7]
    expected = [np.mean([max(subset) for subset in combinations(scores, k)]) for k in range(1, 7)]
    assert best_of(scores) == pytest.approx(expected)


def test_the_estimate_is_unbiased_and_the_band_holds_the_curve() -> None:
    """k independent uniform scores have an expected best of k/(k + 1)."""
    rng, n, repeats = np.random.default_rng(0), 8, 1000
    truth = np.arange(1, n + 1) / np.arange(2, n + 2)
    curves, held = [], 0
    for _ in range(repeats):
        scores = rng.uniform(size=n).tolist()
        curves.append(best_of(scores))
        low, high = best_of_band(scores, 0.0, 1.0)
        held += bool(np.all((low <= truth) & (truth <= high)))
    assert np.mean(curves, axis=0) == pytest.approx(truth, abs=0.02)
    assert held / repeats >= 0.95


def test_the_band_narrows_with_trials_and_stays_in_its_limits() -> None:
    rng = np.random.default_rng(0)
    few, many = (best_of_band(rng.uniform(0.5, 0.9, size=n).tolist(), 0.0, 1.0) for n in (8, 512))
    assert np.all(many[1][:8] - many[0][:8] < few[1] - few[0])
    assert all(np.all((end >= 0) & (end <= 1)) for ends in (few, many) for end in ends)
