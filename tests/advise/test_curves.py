"""Learning curves: planted curves are predicted, families are weighted by what they held out, uncertainty is honest."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from src.advise.curves import FAMILIES, Curve, fit, forecast

SIZES = [50, 100, 200, 400]
FULL = 3200


def planted(
    truth: NDArray[np.float64], noise: float = 0.0, seeds: int = 3, monotone: bool = False, seed: int = 0
) -> Curve:
    rng = np.random.default_rng(seed)
    errors = truth[:, None] + noise * rng.standard_normal((len(truth), seeds))
    return Curve(sizes=SIZES, errors=np.maximum(errors, 0), monotone=monotone)


N = np.array([*SIZES, FULL], float)
PLANTED = {
    "power": 2.0 * N**-0.5,
    "power with offset": 0.08 + 3.0 * N**-0.7,
    "logarithm": 0.6 - 0.06 * np.log(N),
    "arctangent": 0.05 + 0.3 * (np.pi / 2 - np.arctan(N / 200)),
    "constant": np.full(5, 0.3),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_family_fits_its_own_curve(name: str) -> None:
    truth = PLANTED[name]
    predicted, squares = fit(FAMILIES[name], N[:4] / 400, truth[None, :4], N[4:] / 400, monotone=True)
    assert squares[0] < 1e-4
    assert predicted[0, 0] == pytest.approx(truth[4], abs=0.03)


@pytest.mark.parametrize("name", PLANTED)
def test_the_interval_covers_the_planted_error_at_eight_times_the_size(name: str) -> None:
    truth = PLANTED[name]
    curves = [planted(truth[:4], noise=0.01, monotone=True, seed=seed) for seed in range(9)]
    draws = forecast(curves, FULL).draws
    low, high = np.percentile(draws, (5, 95), axis=0)
    assert np.mean((low <= truth[4]) & (truth[4] <= high)) >= 7 / 9
    assert np.abs(draws.mean(axis=0) - truth[4]).mean() < 0.06


def test_the_family_that_predicts_the_larger_sizes_has_the_largest_weight() -> None:
    (flat,), (falling,) = (forecast([planted(PLANTED[n][:4], 0.001)], FULL).weights for n in ("constant", "logarithm"))
    assert max(flat, key=flat.__getitem__) != "logarithm"
    assert max(falling, key=falling.__getitem__) == "logarithm"
    assert falling["constant"] < 0.01 < flat["constant"]


def test_an_error_that_rises_with_the_data_is_followed_unless_it_cannot_rise() -> None:
    rising = np.array([0.2, 0.22, 0.24, 0.26])
    free, bound = (forecast([planted(rising, monotone=m)], FULL).draws.mean() for m in (False, True))
    assert free > 0.3
    assert bound < 0.28


def test_a_ceiling_and_zero_error_stay_inside_the_possible() -> None:
    nothing = forecast([planted(np.zeros(4))], FULL).draws
    assert (nothing == 0).all()
    falling = forecast([planted(np.array([0.3, 0.2, 0.1, 0.0]))], FULL).draws
    assert (falling >= 0).all()


def test_more_noise_widens_the_interval_and_seeds_are_paired() -> None:
    def width(noise: float) -> float:
        low, high = np.percentile(
            forecast([planted(PLANTED["constant"][:4], noise, seed=k) for k in range(5)], FULL).draws, (5, 95), axis=0
        )
        return float((high - low)[0])

    assert width(0.1) > 1.5 * width(0.003)
    rng = np.random.default_rng(0)
    common = 0.03 * rng.standard_normal((4, 3))
    first = Curve(sizes=SIZES, errors=PLANTED["power"][:4, None] + common)
    second = Curve(sizes=SIZES, errors=PLANTED["power"][:4, None] + common + 0.05)
    draws = forecast([first, second], SIZES[-1]).draws
    assert (draws[:, 1] - draws[:, 0]).std() < 1e-9 < draws[:, 0].std()


def test_a_measured_full_size_needs_no_curve() -> None:
    measured = Curve(sizes=[100, 400], errors=np.array([[0.4, 0.5, 0.45], [0.2, 0.22, 0.24]]))
    found = forecast([measured], 400)
    assert found.draws.mean() == pytest.approx(0.22, abs=0.003)
    assert found.weights == [{}]
    assert 0.005 < found.draws.std() < 0.03
