"""The phase boundary: its quoted values, its peak at n2 ~ d, and that it is where the two risks cross."""

from __future__ import annotations

import pytest

from src.oracles.theory.boundary import critical_shift, risk_difference
from src.oracles.theory.risks import shift_weight


def test_quoted_values() -> None:
    """d=20, n1=400, s=1: exact values; the quoted three digits are 1.18 (in truth 1.175), 1.52, 5.45, ..."""
    exact = {1: 1.1750, 5: 1.5241, 15: 5.4525, 22: 22.1415, 25: 5.5706, 40: 1.2099, 100: 0.3268}
    assert {n2: critical_shift(20, 400, n2, noise=1.0) for n2 in exact} == pytest.approx(exact, abs=1e-4)


def test_it_rises_to_n2_near_d_and_falls_beyond() -> None:
    below = [critical_shift(20, 400, n2, noise=1.0) for n2 in range(1, 19)]
    above = [critical_shift(20, 400, n2, noise=1.0) for n2 in range(22, 400)]
    assert below == sorted(below)
    assert above == sorted(above, reverse=True)


@pytest.mark.parametrize("initial", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("dim", [6, 20])
def test_the_sign_of_the_difference_changes_exactly_there(dim: int, initial: float) -> None:
    n_checked = 0
    for n1 in range(1, 3 * dim, 2):
        for n2 in range(1, 3 * dim):
            if abs(n2 - dim) <= 1 or abs(n1 + n2 - dim) <= 1 or (n2 < dim and abs(n1 - dim) <= 1):
                continue
            critical = critical_shift(dim, n1, n2, noise=0.3, initial=initial)
            setting = {"noise": 0.3, "initial": initial}
            assert risk_difference(dim, n1, n2, shift=critical * 1.01 + 1e-6, **setting) < 0
            if critical > 0:
                assert risk_difference(dim, n1, n2, shift=critical * 0.99, **setting) > 0
            n_checked += 1
    assert n_checked > 80


def test_its_closed_form_above_d_does_not_depend_on_the_start() -> None:
    expected = 0.5 * 20 * (1 / (30 - 21) - 1 / (30 + 50 - 21)) / shift_weight(20, 50, 30)
    for initial in (0.0, 3.0):
        assert critical_shift(20, 50, 30, noise=0.5, initial=initial) == pytest.approx(expected)


def test_it_scales_with_the_noise_and_vanishes_without() -> None:
    assert critical_shift(20, 400, 30, noise=2.0) == pytest.approx(2 * critical_shift(20, 400, 30, noise=1.0))
    assert critical_shift(20, 400, 30, noise=0.0) == 0.0


def test_combined_loses_at_every_shift_near_the_peak_of_double_descent() -> None:
    assert critical_shift(100, 45, 45, noise=0.25, initial=1.0) == 0.0
    assert risk_difference(100, 45, 45, noise=0.25, initial=1.0, shift=0.0) == pytest.approx(0.625 - 2.6, abs=1e-2)


@pytest.mark.parametrize(
    ("n1", "n2", "name"),
    [(400, 21, "n2"), (20, 5, "n1"), (10, 10, "n2"), (11, 9, r"n1 \+ n2"), (0, 30, "n1"), (30, 0, "n2")],
)
def test_outside_its_range_names_the_argument(n1: int, n2: int, name: str) -> None:
    dim = 20 if n2 != 10 else 10
    with pytest.raises(ValueError, match=f"^{name}="):
        critical_shift(dim, n1, n2, noise=1.0)
