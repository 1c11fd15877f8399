"""Conditional solutions are where descent on the same matrix ends, for every shape and rank."""

from __future__ import annotations

import numpy as np
import pytest

from src.oracles.theory.linear import (
    affine_projection,
    combined_weights,
    sequential_weights,
    weights_after,
)


def problem(n: int, d: int, seed: int = 0, rank: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng([seed, n, d])
    inputs = draw.standard_normal((n, d))
    if rank is not None:
        inputs = draw.standard_normal((n, rank)) @ draw.standard_normal((rank, d))
    return draw.standard_normal(d), inputs, draw.standard_normal(n)


def descend(start: np.ndarray, inputs: np.ndarray, targets: np.ndarray, lr: float, n_steps: int) -> np.ndarray:
    """Descent on the mean squared error, written out: the independent reference."""
    weights = start.copy()
    for _ in range(n_steps):
        weights = weights - lr * 2.0 * inputs.T @ (inputs @ weights - targets) / len(targets)
    return weights


@pytest.mark.parametrize(("n", "d", "rank"), [(3, 8, None), (20, 5, None), (6, 6, None), (10, 8, 3), (1, 4, None)])
def test_projection_is_the_end_of_descent(n: int, d: int, rank: int | None) -> None:
    start, inputs, targets = problem(n, d, rank=rank)
    top = np.linalg.svd(inputs, compute_uv=False)[0] ** 2 * 2 / n
    least = (np.linalg.svd(inputs, compute_uv=False)[: rank or min(n, d)] ** 2 * 2 / n)[-1]
    n_steps = int(30 * top / least)
    assert n_steps < 200_000
    end = descend(start, inputs, targets, 1.0 / top, n_steps)
    np.testing.assert_allclose(affine_projection(start, inputs, targets), end, atol=1e-8)


@pytest.mark.parametrize(("n", "d", "rank"), [(3, 8, None), (20, 5, None), (10, 8, 3), (0, 4, None)])
def test_projection_solves_the_normal_equations_moves_in_the_row_space_and_is_idempotent(
    n: int, d: int, rank: int | None
) -> None:
    start, inputs, targets = problem(n, d, rank=rank)
    end = affine_projection(start, inputs, targets)
    np.testing.assert_allclose(inputs.T @ (inputs @ end - targets), 0, atol=1e-10)
    if n:
        outside = np.eye(d) - np.linalg.pinv(inputs, rcond=1e-12) @ inputs
        np.testing.assert_allclose(outside @ (end - start), 0, atol=1e-10)
    np.testing.assert_allclose(affine_projection(end, inputs, targets), end, atol=1e-10)


def test_empty_data_set_leaves_the_weights() -> None:
    start, inputs, targets = problem(4, 6)
    empty = (np.zeros((0, 6)), np.zeros(0))
    after1, after2 = sequential_weights(start, [(inputs, targets), empty])
    np.testing.assert_array_equal(after1, after2)
    np.testing.assert_allclose(combined_weights(start, [(inputs, targets), empty]), after1, atol=1e-12)


def test_order_of_the_parts_is_nothing_to_combined_and_something_to_sequential() -> None:
    start, inputs, targets = problem(8, 12)
    parts = [(inputs[:5], targets[:5]), (inputs[5:], targets[5:])]
    np.testing.assert_allclose(combined_weights(start, parts), combined_weights(start, parts[::-1]), atol=1e-10)
    forward, backward = sequential_weights(start, parts)[-1], sequential_weights(start, parts[::-1])[-1]
    assert np.abs(forward - backward).max() > 1e-3


def test_negative_control_full_rank_forgets_every_start() -> None:
    """Full rank and convex: warm start = cold start = shrink and perturb."""
    cold, inputs, targets = problem(30, 6)
    parts = [(inputs[:12], targets[:12]), (inputs[12:], targets[12:])]
    warm = sequential_weights(cold, parts[:1])[0]
    shrunk = 0.5 * warm + np.random.default_rng(1).standard_normal(6)
    expected = combined_weights(cold, parts)
    for start in (warm, shrunk):
        np.testing.assert_allclose(combined_weights(start, parts), expected, atol=1e-10)


def test_warm_start_equals_combined_below_full_rank_and_a_shrunk_start_does_not() -> None:
    cold, inputs, targets = problem(7, 12)
    parts = [(inputs[:3], targets[:3]), (inputs[3:], targets[3:])]
    warm = sequential_weights(cold, parts[:1])[0]
    expected = combined_weights(cold, parts)
    np.testing.assert_allclose(combined_weights(warm, parts), expected, atol=1e-10)
    assert np.abs(combined_weights(0.5 * warm, parts) - expected).max() > 1e-2


@pytest.mark.parametrize(("n", "d"), [(3, 8), (20, 5)])
@pytest.mark.parametrize("n_steps", [0, 1, 7, 100])
def test_weights_after_some_steps(n: int, d: int, n_steps: int) -> None:
    start, inputs, targets = problem(n, d)
    expected = descend(start, inputs, targets, 0.02, n_steps)
    np.testing.assert_allclose(
        weights_after(start, inputs, targets, lr=0.02, n_steps=n_steps), expected, rtol=1e-9, atol=1e-10
    )


@pytest.mark.parametrize("lr", [0.0, 0.3, 1.2])  # 1.2: lr l > 2 diverges
@pytest.mark.parametrize("n_steps", [0, 4])
def test_an_error_along_an_eigenvector_shrinks_by_one_minus_lr_times_its_eigenvalue(lr: float, n_steps: int) -> None:
    start, design = (
        np.array([2.0, -1.0, 5.0]),
        np.diag([np.sqrt(3.0), np.sqrt(1.5), 0.0]),
    )  # n = 3: Hessian diag(2, 1, 0)
    moved = weights_after(start, design, np.zeros(3), lr=lr, n_steps=n_steps)
    np.testing.assert_allclose(moved, start * (1 - lr * np.array([2.0, 1.0, 0.0])) ** n_steps)
