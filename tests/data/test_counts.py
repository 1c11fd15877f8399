"""How many samples go where is exact arithmetic.

Properties: `apportion` is the method of the largest remainder (against fractions) wherever no bound binds; every present
class gets one; the union of equal priors depends on the total alone; the advice of an error is the largest size that fits.
"""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.counts import allot, apportion, class_counts, class_priors
from src.errors import ConfigError
from tests.data.samples import check_split, source_of, split_of


def largest_remainder(n: int, weights: list[int]) -> list[int]:
    shares = [Fraction(n * weight, sum(weights)) for weight in weights]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda c: (counts[c] - shares[c], c))
    for c in by_remainder[: n - sum(counts)]:
        counts[c] += 1
    return counts


@given(st.integers(0, 5000), st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any))
@settings(max_examples=200, deadline=None)
def test_apportion_is_the_largest_remainder(n: int, weights: list[int]) -> None:
    prior = np.array(weights) / sum(weights)
    assert apportion(n, prior).tolist() == largest_remainder(n, weights)


@given(st.integers(4, 5000), st.lists(st.integers(0, 99), min_size=1, max_size=4).filter(any))
@settings(max_examples=200, deadline=None)
def test_every_present_class_gets_one_and_no_other_any(n: int, weights: list[int]) -> None:
    counts = apportion(n, np.array(weights) / sum(weights), lowest=1)
    assert counts.sum() == n
    assert [count > 0 for count in counts] == [weight > 0 for weight in weights]


def test_exact_counts_of_an_imbalance() -> None:
    priors = class_priors(split_of(imbalance=4.0), 3)  # weights 4 : 2 : 1, reversed in Dataset 2
    assert class_counts((7, 14), priors).tolist() == [[4, 2, 1], [2, 4, 8]]
    same = class_priors(split_of(imbalance=4.0, opposed=False), 3)
    assert class_counts((7, 14), same).tolist() == [[4, 2, 1], [8, 4, 2]]


def test_rare_class_keeps_one_sample_at_the_cost_of_the_most_frequent() -> None:
    priors = class_priors(split_of(imbalance=100.0), 3)
    assert class_counts((5, 5), priors).tolist() == [[3, 1, 1], [1, 1, 3]]


def test_ties_go_to_the_lower_class() -> None:
    assert apportion(5, np.full(3, 1 / 3)).tolist() == [2, 2, 1]


@given(st.lists(st.integers(3, 400), min_size=2, max_size=4), st.floats(1, 30))
@settings(max_examples=100, deadline=None)
def test_union_of_equal_priors_depends_on_the_total_alone(sizes: list[int], imbalance: float) -> None:
    priors = class_priors(split_of(parts=len(sizes), imbalance=imbalance, opposed=False), 3)
    counts = class_counts(sizes, priors)
    assert counts.sum(axis=1).tolist() == sizes
    assert counts.min() >= 1
    n_parts = len(sizes)
    assert counts.sum(axis=0).tolist() == apportion(sum(sizes), priors[0], lowest=n_parts).tolist()


def test_subset_of_a_data_set_counts_imbalance_within_itself() -> None:
    priors = class_priors(split_of(imbalance=3.0), 4, [(0, 3), (1, 2)])
    assert np.allclose(priors, [[0.75, 0, 0, 0.25], [0, 0.25, 0.75, 0]])


@pytest.mark.parametrize("imbalance", [1.0, 5.0])
def test_error_says_the_largest_size_that_fits(imbalance: float) -> None:
    source = source_of([60, 50, 40])
    with pytest.raises(ConfigError, match=r"split\.size=900: .* training samples of class") as caught:
        check_split(split_of(size=900, imbalance=imbalance), source)
    found = re.search(r"lower split\.size to at most (\d+)", str(caught.value))
    assert found is not None
    check_split(split_of(size=int(found[1]), imbalance=imbalance), source)
    with pytest.raises(ConfigError):
        check_split(split_of(size=int(found[1]) + 1, imbalance=imbalance), source)


def test_error_names_class_requested_and_available() -> None:
    message = "split.sizes=[20, 20]: Dataset 1 and Dataset 2 would need 20 training samples of class b, but 7 are left"
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_split(split_of(sizes=(20, 20)), source_of([60, 10]))


def test_held_out_shares_are_rounded_class_by_class_and_at_least_one() -> None:
    allotment = allot(split_of(sizes=(3, 3), test=0.25, val=0.1), (source_of([30, 14, 4]),))
    assert allotment.test.tolist() == [[8, 4, 1]]  # 7.5, 3.5, 1
    assert allotment.val.tolist() == [[3, 1, 1]]  # 3, 1.4, 0.4


def test_validation_is_a_share_of_what_an_official_test_set_leaves() -> None:
    source = source_of([30, 30], n_official=10)
    official = allot(split_of(size=4, val=0.2), (source,))
    assert (official.test.tolist(), official.val.tolist()) == ([[10, 10]], [[4, 4]])
    forced = allot(split_of(size=4, val=0.2, test=0.5), (source,))
    assert (forced.test.tolist(), forced.val.tolist()) == ([[15, 15]], [[6, 6]])
