"""Class priors: the quoted change of bias, that it is optimal, and the slow fall of an absent class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from src.oracles.theory.priors import absent_class_growth, absent_class_probability, bias_change


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
    assert (later - late) / 1e6 == pytest.approx(absent_class_growth(m), rel=1e-5)
    assert absent_class_probability(0.1, 0.0, m) == pytest.approx(0.1)


def test_the_slope_holds_for_unequal_priors_too() -> None:
    path = descend(np.zeros(4), np.array([0.6, 0.3, 0.1, 0.0]), 0.5, 40001)
    slope = (1 / path[40000] - 1 / path[20000]) / (0.5 * 20000)
    assert slope == pytest.approx(absent_class_growth(3), rel=1e-3)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: bias_change([1, 0], [1, 1]), "priors1"),
        (lambda: bias_change([1, 1], [0, 0]), "priors2"),
        (lambda: bias_change([1, 1], [1, 1, 1]), "priors2"),
        (lambda: absent_class_growth(0), "n_present"),
        (lambda: absent_class_probability(1.0, 1.0, 2), "start"),
        (lambda: absent_class_probability(0.5, -1.0, 2), "time"),
    ],
)
def test_outside_its_range_names_the_argument(call: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}="):
        call()
