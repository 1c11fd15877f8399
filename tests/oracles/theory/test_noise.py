"""Noise of the surface: Monte Carlo, exact enumeration of subsets, and the slope -1."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from src.oracles.theory.noise import gradient_noise, linear_loss_variance, mean_loss_variance

SEED = 77


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_finite_pool_by_enumeration_of_every_subset(n: int) -> None:
    pool = np.array([0.3, 1.7, -2.0, 0.4, 5.0, 1.1])
    means = [np.mean(subset) for subset in combinations(pool, n)]
    assert mean_loss_variance(float(pool.var(ddof=1)), n, pool=6) == pytest.approx(np.var(means), abs=1e-15)


def test_infinite_pool_is_the_limit() -> None:
    assert mean_loss_variance(2.0, 5) == 0.4
    assert mean_loss_variance(2.0, 5, pool=10**9) == pytest.approx(0.4)


@pytest.mark.parametrize(("dim", "excess", "noise", "n"), [(3, 1.0, 0.5, 4), (6, 0.0, 1.0, 2), (4, 2.0, 0.0, 7)])
def test_linear_model_by_monte_carlo(dim: int, excess: float, noise: float, n: int) -> None:
    draw, n_draws = np.random.default_rng([SEED, dim, n]), 40000
    direction = np.ones(dim) / math.sqrt(dim) * math.sqrt(excess)
    inputs = draw.standard_normal((n_draws, n, dim))
    residual = inputs @ direction - math.sqrt(noise) * draw.standard_normal((n_draws, n))
    losses = (residual**2 / 2).mean(axis=1)
    squares = (losses - (excess + noise) / 2) ** 2
    noise_of_gradient = np.sum(((inputs * residual[..., None]).mean(axis=1) - direction) ** 2, axis=1)
    for sample, expected in (
        (squares, linear_loss_variance(excess, noise, n)),
        (noise_of_gradient, gradient_noise(dim, excess, noise, n)),
    ):
        z = (sample.mean() - expected) / (sample.std(ddof=1) / math.sqrt(n_draws))
        assert abs(z) < 4


def test_log_log_slope_is_minus_one() -> None:
    sizes = np.array([1, 4, 16, 64])
    for variance in (
        lambda n: mean_loss_variance(3.0, n),
        lambda n: linear_loss_variance(1.0, 2.0, n),
        lambda n: gradient_noise(5, 1.0, 2.0, n),
    ):
        slope = np.polyfit(np.log(sizes), np.log([variance(int(n)) for n in sizes]), 1)[0]
        assert slope == pytest.approx(-1.0)


def test_gradient_noise_of_one_dimension_is_its_own_variance() -> None:
    """d = 1, no noise: Var(x^2 e) = 2 e^2."""
    assert gradient_noise(1, 3.0, 0.0, 1) == 6.0


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: mean_loss_variance(1.0, 0), "n"),
        (lambda: mean_loss_variance(1.0, 11, pool=10), "n"),
        (lambda: mean_loss_variance(1.0, 1, pool=1), "pool"),
        (lambda: mean_loss_variance(-1.0, 1), "loss_variance"),
        (lambda: linear_loss_variance(-1.0, 1.0, 1), "excess"),
        (lambda: linear_loss_variance(1.0, math.nan, 1), "noise"),
        (lambda: gradient_noise(0, 1.0, 1.0, 1), "dim"),
    ],
)
def test_outside_its_range_names_the_argument(call: Callable[[], float], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}="):
        call()
