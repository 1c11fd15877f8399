"""Error rates of the verdicts stay within their bounds, on the differences of benchmarks/false_alarms.py.

The random seed is fixed. A rate over 4,000 comparisons has a standard error of 0.35 %; the bounds allow four of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.false_alarms import EXCHANGEABLE, alarm_rate, bootstrap_alarm_rate, coverage, real_differences
from src.comparison.statistics import equivalence_p

SHAPE = (4_000, 10)


@pytest.mark.parametrize("name", list(EXCHANGEABLE))
def test_identical_regimes_are_called_different_with_probability_at_most_alpha(name: str) -> None:
    assert alarm_rate(EXCHANGEABLE[name](np.random.default_rng(0), SHAPE)) <= 0.05 + 4 * 0.0035


def test_a_planted_difference_of_1_2_sd_is_detected() -> None:
    assert alarm_rate(np.random.default_rng(0).normal(1.2, 1.0, SHAPE)) >= 0.85


def test_an_effect_equal_to_the_margin_is_called_equivalent_with_probability_at_most_alpha() -> None:
    p = equivalence_p(np.random.default_rng(0).normal(1.0, 1.0, SHAPE), 1.0)
    assert np.mean(p <= 0.05) <= 0.05 + 4 * 0.0035


def test_power_of_equivalence_matches_the_computed_values() -> None:
    normal = np.random.default_rng(0).normal(size=SHAPE)
    assert np.mean(equivalence_p(normal, 1.0) <= 0.05) == pytest.approx(0.79, abs=0.026)
    assert np.mean(equivalence_p(normal, 0.5) <= 0.05) == pytest.approx(0.07, abs=0.016)


def test_the_interval_covers_the_mean_and_the_percentile_bootstrap_does_not() -> None:
    normal = np.random.default_rng(0).normal(size=SHAPE)
    assert coverage(normal, 0.0) >= 0.95 - 4 * 0.0035
    assert bootstrap_alarm_rate(normal, np.random.default_rng(1)) == pytest.approx(0.10, abs=0.02)


def test_real_comparisons_use_each_seed_once(sweep: Path, run_writer: Callable[..., Path]) -> None:
    for seed in range(9):
        run_writer(sweep, "c0", "combined", seed, float(2**seed))
    differences = real_differences(sweep, "combined", "test/union/accuracy", 2)
    np.testing.assert_array_equal(differences, [[1 - 4, 2 - 8], [16 - 64, 32 - 128]])
    with pytest.raises(SystemExit, match="no cell has 10 finished runs"):
        real_differences(sweep, "combined", "test/union/accuracy", 5)
