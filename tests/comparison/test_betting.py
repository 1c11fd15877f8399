"""Tests at any stop: a fair game whatever the magnitudes, few false alarms with a look after every seed, intervals that agree."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from benchmarks.false_alarms import EXCHANGEABLE
from benchmarks.seeding import decided_after
from src.comparison.betting import (
    anytime_equivalence_p,
    anytime_interval,
    anytime_p,
    fewest_seeds,
    log2_wealth,
)

MAGNITUDES = {
    "distinct": [3.0, 0.1, 1.2, 0.7, 2.5, 0.01, 8.0, 1.0],
    "equal": [0.1] * 8,
    "ties and zeros": [0.0, 0.0, 1 / 359, 2 / 359, 0.0, 1 / 359, 1 / 359, 5 / 359],
    "one far away": [1.0, 1.1, 0.9, 1.0, 1e6, 1.0, 1.0, 1.0],
}


@pytest.mark.parametrize("name", list(MAGNITUDES))
def test_the_mean_wealth_over_all_signs_is_one_after_every_seed(name: str) -> None:
    """The game is fair given the magnitudes: exactly, so for every symmetric distribution."""
    signs = np.array(list(product((1, -1), repeat=8)))
    wealth = np.exp2(log2_wealth(signs * np.array(MAGNITUDES[name])))
    assert wealth.mean(axis=0) == pytest.approx(np.ones(8), rel=1e-12)
    assert np.isfinite(np.log2(wealth)).all(), "one gambler always has something left"


@pytest.mark.parametrize("name", list(EXCHANGEABLE))
def test_a_look_after_every_seed_calls_identical_regimes_different_with_probability_at_most_alpha(name: str) -> None:
    n = decided_after(EXCHANGEABLE[name](np.random.default_rng(0), (3_000, 48)))
    assert np.mean(np.isfinite(n)) <= 0.05


def test_it_needs_fewer_seeds_than_bets_on_signs() -> None:
    """Bets on signs, the Krichevsky-Trofimov mixture: 17 seeds on average for an effect of 1 SD and 7.8 for 2 SD."""
    rng = np.random.default_rng(0)
    for effect, most in ((1.0, 14.5), (2.0, 7.4)):
        n = decided_after(rng.normal(effect, 1.0, (2_000, 48)))
        assert np.mean(np.isfinite(n)) >= 0.99
        assert np.minimum(n, 48).mean() <= most


def test_the_interval_holds_what_is_not_rejected_and_always_the_mean() -> None:
    x = np.random.default_rng(1).normal(0.6, 1.0, (400, 30))
    low, high = anytime_interval(x)
    assert ((low > 0) | (high < 0)).tolist() == (anytime_p(x) <= 0.05).tolist()
    for row in range(20):
        for end, inside in ((low[row], 1e-6), (high[row], -1e-6)):
            assert anytime_p(x[row], null=end + inside) > 0.05 >= anytime_p(x[row], null=end - inside)
    assert np.mean((low <= 0.6) & (high >= 0.6)) >= 0.94, "of all 30 intervals at once"
    assert np.isinf(anytime_interval(x[:, :5])).all()


def test_the_wealth_falls_as_the_null_mean_rises() -> None:
    x = np.random.default_rng(2).standard_t(2, size=25)
    wealth = np.array([log2_wealth(x, null=null) for null in np.linspace(-9, 9, 181)])
    assert (np.diff(wealth, axis=0) <= 1e-9).all()


def test_p_never_rises_with_further_seeds_and_ignores_the_unit() -> None:
    x = np.random.default_rng(3).normal(0.5, 1.0, 20)
    p = [float(anytime_p(x[:n])) for n in range(1, 21)]
    assert p == sorted(p, reverse=True)
    assert float(anytime_p(1000 * x)) == pytest.approx(p[-1], rel=1e-9)
    assert float(anytime_p([0.0] * 12)) == 1.0
    assert float(anytime_p(x)) == min(1.0, 2 * min(float(anytime_p(x, alternative=a)) for a in ("greater", "less")))


def test_equivalence_is_shown_within_the_margin_and_not_at_it() -> None:
    rng = np.random.default_rng(4)
    at_margin = [float(anytime_equivalence_p(row, 1.0)) for row in rng.normal(1.0, 1.0, (300, 48))]
    assert np.mean(np.array(at_margin) <= 0.05) <= 0.05 + 2 * 0.0126
    assert np.mean([float(anytime_equivalence_p(row, 1.0)) <= 0.05 for row in rng.normal(0, 1.0, (100, 48))]) > 0.9


def test_fewest_seeds_are_those_of_large_differences_of_one_sign() -> None:
    assert [fewest_seeds(n) for n in (1, 30)] == [6, 11]
    same = 100 + np.random.default_rng(5).normal(size=11)
    assert 30 * float(anytime_p(same)) <= 0.05 < 30 * float(anytime_p(same[:10]))
