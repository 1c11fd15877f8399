"""Noise of the surface, the order of samples and class priors: closed forms against Monte Carlo, enumeration and SGD."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from src.oracles.theory.sampling import (
    absent_class_probability,
    bias_change,
    gradient_noise,
    linear_loss_variance,
    long_run_variance,
    mean_loss_variance,
    retention,
    sample_weights,
    weight_after_epoch,
)

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


def sgd(start: float, centres: np.ndarray, lr: float, curvature: float) -> float:
    weight = start
    for centre in centres:
        weight -= lr * curvature * (weight - centre)
    return weight


@pytest.mark.parametrize("n", [0, 1, 6])
@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("lr", [0.1, 0.5, 0.9])
def test_one_epoch_of_blocks_is_sgd(n: int, m: int, lr: float) -> None:
    centres = np.random.default_rng([n, m]).standard_normal(n)
    expected = sgd(1.7, np.repeat(centres, m), lr, 2.0)
    assert weight_after_epoch(1.7, centres, retention(lr, 2.0, m)) == pytest.approx(expected, abs=1e-12)


def test_sample_weights_with_the_start_sum_to_one_and_favour_the_latest() -> None:
    q = retention(0.2, 1.0)
    weights = sample_weights(9, q)
    assert weights.sum() + q**9 == pytest.approx(1.0)
    assert (np.diff(weights) > 0).all()
    # Dataset 1 then Dataset 2: what is left of Dataset 1's say is q^n2.
    assert weights[:5].sum() == pytest.approx(q**4 * sample_weights(5, q).sum())


def test_small_rate_forgets_the_order_and_full_rate_keeps_the_last_sample_alone() -> None:
    tiny = sample_weights(5, retention(1e-6, 1.0))
    np.testing.assert_allclose(tiny / tiny.sum(), 0.2, rtol=1e-5)
    assert weight_after_epoch(3.0, np.array([5.0, -2.0]), retention(0.5, 2.0)) == -2.0


@pytest.mark.parametrize(("lr", "m"), [(0.1, 1), (0.1, 5), (0.6, 1), (1.5, 1)])
def test_long_run_variance_by_monte_carlo(lr: float, m: int) -> None:
    draw, n_chains = np.random.default_rng([11, m]), 20000
    weights = np.zeros(n_chains)
    for _ in range(80):
        centres = math.sqrt(2.0) * draw.standard_normal(n_chains)
        for _ in range(m):
            weights -= lr * (weights - centres)
    expected = long_run_variance(2.0, retention(lr, 1.0, m))
    z = (np.mean(weights**2) - expected) / (np.std(weights**2, ddof=1) / math.sqrt(n_chains))
    assert abs(z) < 4


def test_longer_blocks_are_noisier() -> None:
    variances = [long_run_variance(1.0, retention(0.1, 1.0, m)) for m in (1, 2, 8, 64, 10000)]
    assert variances == sorted(variances)
    assert variances[-1] == pytest.approx(1.0)


def test_quoted_change() -> None:
    np.testing.assert_allclose(bias_change([80, 10, 10], [10, 90, 0]), [-2.079, 2.197, -np.inf], atol=5e-4)


def test_symmetries() -> None:
    first, second = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    np.testing.assert_allclose(bias_change(first, second), -bias_change(second, first))
    np.testing.assert_allclose(bias_change(first, first), 0)
    np.testing.assert_allclose(bias_change(100 * first, 7 * second), bias_change(first, second))
    third = np.array([0.1, 0.8, 0.1])
    np.testing.assert_allclose(
        bias_change(first, second) + bias_change(second, third), bias_change(first, third), atol=1e-12
    )


def test_the_change_turns_one_posterior_into_the_other() -> None:
    """Three classes on four inputs with the same p(x|k): the corrected logits are the exact posterior of Dataset 2."""
    likelihood = np.random.default_rng(2).dirichlet(np.ones(4), size=3)
    first, second = np.array([0.5, 0.3, 0.2]), np.array([0.05, 0.15, 0.8])
    logits = np.log(likelihood * first[:, None]) + bias_change(first, second)[:, None]
    posterior = np.exp(logits) / np.exp(logits).sum(axis=0)
    joint = likelihood * second[:, None]
    np.testing.assert_allclose(posterior, joint / joint.sum(axis=0))


def descend(logits: np.ndarray, priors: np.ndarray, lr: float, n_steps: int) -> np.ndarray:
    """p of the last class after each step of bias-only descent of the mean cross-entropy."""
    path = []
    for _ in range(n_steps):
        p = np.exp(logits - logits.max())
        p /= p.sum()
        logits = logits - lr * (p - priors)
        path.append(p[-1])
    return np.array(path)


@pytest.mark.parametrize("m", [1, 2, 9])
@pytest.mark.parametrize("start", [0.02, 0.5, 0.9])
def test_absent_class_follows_the_exact_flow(m: int, start: float) -> None:
    logits = np.log(np.append(np.full(m, (1 - start) / m), start))
    priors = np.append(np.full(m, 1 / m), 0.0)
    path = descend(logits, priors, 0.002, 10001)
    for step in (0, 1000, 10000):
        assert absent_class_probability(start, 0.002 * step, m) == pytest.approx(path[step], rel=2e-3)


@pytest.mark.parametrize("m", [1, 4])
def test_one_over_p_grows_like_the_slope(m: int) -> None:
    late, later = (1 / absent_class_probability(0.1, time, m) for time in (1e6, 2e6))
    assert (later - late) / 1e6 == pytest.approx(1 + 1 / m, rel=1e-5)
    assert absent_class_probability(0.1, 0.0, m) == pytest.approx(0.1)


def test_the_slope_holds_for_unequal_priors_too() -> None:
    path = descend(np.zeros(4), np.array([0.6, 0.3, 0.1, 0.0]), 0.5, 40001)
    slope = (1 / path[40000] - 1 / path[20000]) / (0.5 * 20000)
    assert slope == pytest.approx(1 + 1 / 3, rel=1e-3)
