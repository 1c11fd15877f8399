"""The statistics agree with their definitions.

Properties: the sign-flip p equals brute-force enumeration in exact arithmetic; the interval is the set of means that the
test does not reject; neither depends on scale, order or the choice of a and b; the numbers of seeds match theory; the
margin tests agree with the interval.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.comparison.statistics import (
    equivalence_p,
    holm,
    non_inferiority_p,
    seeds_needed,
    sign_flip_interval,
    sign_flip_p,
)

counts = st.lists(st.integers(-12, 12), min_size=1, max_size=9)
reals = st.lists(st.floats(-1, 1, allow_subnormal=False).map(lambda x: round(x, 6)), min_size=6, max_size=9)


def brute_force(differences: list[Fraction]) -> tuple[float, float, float]:
    """(two-sided, greater, less) by enumerating the signs, from the definition |sum| >= |observed sum|."""
    observed = sum(differences)
    sums = [
        sum(s * abs(d) for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    return (
        sum(abs(total) >= abs(observed) for total in sums) / len(sums),
        sum(total >= observed for total in sums) / len(sums),
        sum(total <= observed for total in sums) / len(sums),
    )


@given(counts)
@settings(max_examples=60, deadline=None)
def test_p_equals_enumeration_in_exact_arithmetic_ties_and_zeros_included(numerators: list[int]) -> None:
    two_sided, greater, less = brute_force([Fraction(k, 359) for k in numerators])
    as_floats = [k / 359 for k in numerators]
    assert float(sign_flip_p(as_floats)) == two_sided
    assert float(sign_flip_p(as_floats, alternative="greater")) == greater
    assert float(sign_flip_p(as_floats, alternative="less")) == less


@given(counts, st.integers(-6, 6))
@settings(max_examples=40, deadline=None)
def test_p_for_a_nonzero_null_equals_enumeration_of_the_shifted_differences(numerators: list[int], null: int) -> None:
    two_sided, *_ = brute_force([Fraction(k - null, 359) for k in numerators])
    assert float(sign_flip_p([k / 359 for k in numerators], null=null / 359)) == two_sided


@pytest.mark.parametrize("n", [15, 17, 20])
def test_meeting_in_the_middle_equals_enumeration(n: int) -> None:
    values = np.random.default_rng(n).integers(-9, 12, size=n) / 359
    in_subset = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(bool)
    sums = in_subset @ np.round(values * 359).astype(int)
    assert float(sign_flip_p(values, alternative="greater")) == np.mean(sums <= 0)
    assert float(sign_flip_p(values, alternative="less")) == np.mean(sums >= 0)
    means = np.sort(sums[1:] / in_subset[1:].sum(axis=1)) / 359
    rank = math.floor(2**n * 0.025)
    low, high = sign_flip_interval(values)
    assert float(low) == pytest.approx(means[rank - 1], abs=1e-10)
    assert float(high) == pytest.approx(means[-rank], abs=1e-10)


def test_p_is_exact_at_25_differences() -> None:
    """For differences of equal magnitude, p is a binomial tail in closed form."""
    values = np.full(25, 0.25)
    values[:6] *= -1
    tail = sum(math.comb(25, k) for k in range(7)) / 2**25
    assert float(sign_flip_p(values)) == pytest.approx(2 * tail, rel=1e-12)


def test_random_subsets_agree_with_the_exact_count_and_are_reproducible() -> None:
    """For n > 32 and differences of +-1, p is a binomial tail; 131,072 subsets give a standard error of 0.0008."""
    values = np.ones(60)
    values[:23] = -1
    exact = min(1.0, 2 * sum(math.comb(60, k) for k in range(24)) / 2**60)
    assert float(sign_flip_p(values)) == pytest.approx(exact, abs=0.004)
    assert float(sign_flip_p(values)) == float(sign_flip_p(values))
    assert float(sign_flip_p(np.ones(60))) > 0


@given(reals)
@settings(max_examples=60, deadline=None)
def test_interval_is_the_set_of_means_that_the_test_does_not_reject(differences: list[float]) -> None:
    low, high = (float(end) for end in sign_flip_interval(differences))
    step = 1e-6 * (1 + abs(low) + abs(high))
    for mean in (low, high, (low + high) / 2, low + (high - low) / 7):
        assert float(sign_flip_p(differences, null=mean)) > 0.05
    for mean in (low - step, high + step, low - 1, high + 1):
        assert float(sign_flip_p(differences, null=mean)) <= 0.05
    assert low <= np.mean(differences) + step
    assert high >= np.mean(differences) - step


@given(reals, st.randoms(use_true_random=False), st.sampled_from([1e-9, 0.01, 100.0, 1e7]))
@settings(max_examples=40, deadline=None)
def test_scale_order_and_sides_have_no_influence(differences: list[float], random: object, scale: float) -> None:
    values = np.array(differences)
    shuffled = values.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    p, (low, high) = float(sign_flip_p(values)), sign_flip_interval(values)
    assert float(sign_flip_p(shuffled)) == p
    assert float(sign_flip_p(-values)) == p
    assert float(sign_flip_p(scale * values)) == p
    np.testing.assert_allclose(sign_flip_interval(shuffled), (low, high), atol=1e-12)
    np.testing.assert_allclose(sign_flip_interval(-values), (-high, -low), atol=1e-12)
    np.testing.assert_allclose(
        sign_flip_interval(scale * values), (scale * low, scale * high), rtol=1e-9, atol=1e-12 * scale
    )


def test_vectorised_tests_equal_single_ones() -> None:
    table = np.random.default_rng(3).normal(size=(4, 5, 12))
    low, high = sign_flip_interval(table)
    assert sign_flip_p(table).shape == low.shape == high.shape == (4, 5)
    assert float(sign_flip_p(table)[2, 3]) == float(sign_flip_p(table[2, 3]))
    assert (float(low[2, 3]), float(high[2, 3])) == tuple(float(end) for end in sign_flip_interval(table[2, 3]))


def test_differences_equal_to_the_null_up_to_rounding_are_no_evidence() -> None:
    """0.3 - 0.2 differs from 0.1 in floating point; twelve such differences must not become significant."""
    differences = np.full(12, 0.3 - 0.2)
    assert float(sign_flip_p(differences, null=0.1)) == 1.0
    assert float(non_inferiority_p(-differences, 0.1)) == 1.0


def test_all_zero_differences_are_no_evidence() -> None:
    assert float(sign_flip_p(np.zeros(12))) == 1.0
    assert tuple(float(end) for end in sign_flip_interval(np.zeros(12))) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [1.0, float("inf")]])
def test_empty_and_non_finite_differences_raise(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="differences"):
        sign_flip_p(bad)


# ------------------------------------------------------------------------------------------------ number of seeds


def test_seeds_needed_match_theory() -> None:
    assert seeds_needed(1) == 6
    assert seeds_needed(12) == 9
    assert (seeds_needed(25), seeds_needed(26)) == (10, 11)
    assert (seeds_needed(102), seeds_needed(103)) == (12, 13)
    assert (seeds_needed(6), seeds_needed(7)) == (8, 9)


@pytest.mark.parametrize("n", range(1, 13))
def test_the_smallest_p_is_reached_by_differences_of_one_sign(n: int) -> None:
    assert float(sign_flip_p(np.arange(1.0, n + 1))) == min(1.0, 2.0 ** (1 - n))
    assert float(sign_flip_p(np.arange(1.0, n + 1), alternative="greater")) == 2.0**-n


def test_five_seeds_have_no_interval_and_six_span_their_range() -> None:
    assert tuple(float(end) for end in sign_flip_interval([1.0, 2.0, 3.0, 4.0, 5.0])) == (-math.inf, math.inf)
    assert tuple(float(end) for end in sign_flip_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])) == (1.0, 6.0)


def test_the_size_of_the_test_is_the_largest_that_discrete_p_values_allow() -> None:
    """Of the 2^10 sign patterns of one sample, the test rejects 50 at 5 % (25 on either side): 4.9 %."""
    values = np.random.default_rng(1).normal(size=10)
    signs = 1.0 - 2.0 * ((np.arange(1024)[:, None] >> np.arange(10)) & 1)
    assert int(np.sum(sign_flip_p(signs * values) <= 0.05)) == 50


# ------------------------------------------------------------------------------------------------ multiple tests


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.01], n_tests=12), [0.12])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(p_values: list[float]) -> None:
    p, adjusted = np.array(p_values), holm(p_values)
    assert np.all(adjusted >= p)
    assert np.all(adjusted <= np.minimum(1, len(p) * p))
    assert np.all(np.diff(adjusted[np.argsort(p)]) >= 0)


def test_without_correction_ten_null_cells_give_a_false_winner_in_two_of_five_commands() -> None:
    """1 - (1 - 50/1024)^10 = 39 % uncorrected, at most 5 % by Holm; 4,000 commands, 4 standard errors either way."""
    p = sign_flip_p(np.random.default_rng(0).normal(size=(4_000, 10, 10)))
    uncorrected = float(np.mean(np.any(p <= 0.05, axis=1)))
    corrected = float(np.mean([np.any(holm(command) <= 0.05) for command in p]))
    assert uncorrected == pytest.approx(1 - (1 - 50 / 1024) ** 10, abs=4 * 0.0078)
    assert corrected <= 0.05 + 4 * 0.0035


# ------------------------------------------------------------------------------------------------ margins


@given(reals, st.sampled_from([0.05, 0.2, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_equivalence_is_an_interval_inside_the_margin(differences: list[float], margin: float) -> None:
    """TOST at alpha = the interval at level 2 alpha strictly within the margin (Schuirmann 1987)."""
    low, high = (float(end) for end in sign_flip_interval(differences, alpha=0.1))
    if min(abs(low + margin), abs(high - margin)) > 1e-6:
        assert (float(equivalence_p(differences, margin)) <= 0.05) == (-margin < low and high < margin)


def test_non_inferiority_is_one_sided() -> None:
    small_loss = np.full(6, -0.01) + np.arange(6) * 1e-4
    assert float(non_inferiority_p(small_loss, 0.02)) == 2.0**-6
    assert float(non_inferiority_p(small_loss, 0.005)) == 1.0
    assert float(non_inferiority_p(small_loss + 5, 0.02)) == 2.0**-6
