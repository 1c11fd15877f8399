"""Quadratic losses: the optima are optima, EWC and LwF equal what they must, the path passes what it must."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from src.oracles.theory.linear import affine_projection, combined_weights, sequential_weights
from src.oracles.theory.quadratic import (
    combined_optimum,
    ewc_optimum,
    flow_path,
    lwf_weights,
    path_distance,
)


def hessian(dim: int, seed: int, rank: int | None = None) -> np.ndarray:
    root = np.random.default_rng(seed).standard_normal((dim, rank or dim))
    product = root @ root.T
    return (product + product.T) / 2


O1, O2 = np.random.default_rng(5).standard_normal((2, 4))
H1, H2 = hessian(4, 1), hessian(4, 2)


def loss(h: np.ndarray, o: np.ndarray, w: np.ndarray) -> float:
    return float((w - o) @ h @ (w - o) / 2)


def test_combined_optimum_has_no_gradient_and_does_not_know_the_order() -> None:
    best = combined_optimum([H1, H2], [O1, O2], [30, 10])
    np.testing.assert_allclose(30 * H1 @ (best - O1) + 10 * H2 @ (best - O2), 0, atol=1e-10)
    np.testing.assert_allclose(combined_optimum([H2, H1], [O2, O1], [10, 30]), best, atol=1e-12)
    np.testing.assert_allclose(combined_optimum([H1, H2], [O1, O2], [30, 0]), O1, atol=1e-10)
    np.testing.assert_allclose(combined_optimum([H1, H2], [O1, O1], [30, 10]), O1, atol=1e-10)


def test_combined_optimum_is_combined_training_in_linear_regression() -> None:
    draw = np.random.default_rng(3)
    parts = [(draw.standard_normal((n, 4)), draw.standard_normal(n)) for n in (12, 7)]
    hessians = [x.T @ x * 2 / len(x) for x, _ in parts]
    hessians = [(h + h.T) / 2 for h in hessians]
    optima = [affine_projection(np.zeros(4), x, y) for x, y in parts]
    expected = combined_weights(np.ones(4), parts)
    np.testing.assert_allclose(combined_optimum(hessians, optima, [12, 7]), expected, atol=1e-10)


def test_full_ewc_equals_combined_and_diagonal_ewc_does_not() -> None:
    best = combined_optimum([H1, H2], [O1, O2], [30, 10])
    weight = 30 / 10
    np.testing.assert_allclose(ewc_optimum(H2, O2, O1, H1, weight), best, atol=1e-10)
    diagonal = np.diag(np.diag(H1))
    assert np.linalg.norm(ewc_optimum(H2, O2, O1, diagonal, weight) - best) > 0.05
    exact = combined_optimum([diagonal, H2], [O1, O2], [30, 10])
    np.testing.assert_allclose(ewc_optimum(H2, O2, O1, diagonal, weight), exact, atol=1e-10)


def test_ewc_weight_interpolates_from_sequential_to_dataset_1() -> None:
    np.testing.assert_allclose(ewc_optimum(H2, O2, O1, H1, 0.0), O2, atol=1e-9)
    np.testing.assert_allclose(ewc_optimum(H2, O2, O1, H1, 1e9), O1, atol=1e-6)
    assert np.linalg.norm(ewc_optimum(H2, O2, O1, H1, 30 / 10 * 2) - O1) > 0


def test_loss_on_dataset_1_does_not_increase_with_rho() -> None:
    rhos = np.geomspace(1e-3, 1e3, 40)
    kept = [loss(H1, O1, combined_optimum([H2, H1], [O2, O1], [1.0, float(rho)])) for rho in rhos]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(kept))


def test_loss_on_dataset_1_does_not_increase_with_rho_for_any_losses() -> None:
    """Two losses with many local minima, minimised globally on a grid."""
    w = np.linspace(-3, 3, 20001)
    first, second = np.sin(5 * w) + 0.3 * (w - 1) ** 2, np.cos(7 * w) + 0.2 * (w + 1) ** 2
    kept = [first[np.argmin(second + rho * first)] for rho in np.geomspace(1e-3, 1e3, 60)]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(kept))
    assert kept[0] > kept[-1]


@pytest.mark.parametrize("n", [3, 10])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_lwf_equals_the_weight_average(n: int, share: float) -> None:
    """Against descent on the two squared losses: over- and under-parameterised."""
    draw = np.random.default_rng([n, 7])
    x, y, first = draw.standard_normal((n, 5)), draw.standard_normal(n), draw.standard_normal(5)
    weights = first.copy()
    lr = 0.5 / np.linalg.norm(x, 2) ** 2
    for _ in range(20000):
        gradient = 2 * x.T @ (share * (x @ weights - y) + (1 - share) * (x @ weights - x @ first))
        weights = weights - lr * gradient
    expected = lwf_weights(first, affine_projection(first, x, y), share)
    np.testing.assert_allclose(weights, expected, atol=1e-8)


def test_flow_path_starts_ends_and_solves_its_equation() -> None:
    path = flow_path(H2, O2, O1, np.array([0.0, np.inf, 0.4]))
    np.testing.assert_allclose(path[:2], [O1, O2], atol=1e-12)
    step = 1e-5
    before, at, after = flow_path(H2, O2, O1, np.array([0.4 - step, 0.4, 0.4 + step]))
    np.testing.assert_allclose((after - before) / (2 * step), -H2 @ (at - O2), rtol=1e-5, atol=1e-6)


def test_flow_path_is_descent_at_a_small_rate_and_flat_directions_never_move() -> None:
    weights, rate = O1.copy(), 1e-4
    for _ in range(5000):
        weights = weights - rate * H2 @ (weights - O2)
    np.testing.assert_allclose(flow_path(H2, O2, O1, np.array([0.5]))[0], weights, atol=2e-3)
    flat = np.diag([1.0, 2.0, 0.0, 0.0])
    end = flow_path(flat, O2, O1, np.array([np.inf]))[0]
    np.testing.assert_allclose(end, [O2[0], O2[1], O1[2], O1[3]], atol=1e-12)


@pytest.mark.parametrize("sizes", [(30, 10), (1, 50)])
def test_path_meets_the_combined_optimum_of_isotropic_losses(sizes: tuple[int, int]) -> None:
    """The positive control of the off-path claim."""
    first, second = 3.0 * np.eye(4), 0.2 * np.eye(4)
    best = combined_optimum([first, second], [O1, O2], sizes)
    assert path_distance(second, O2, O1, best) < 1e-9


def test_path_misses_the_combined_optimum_in_general() -> None:
    best = combined_optimum([H1, H2], [O1, O2], [20, 10])
    distance = path_distance(H2, O2, O1, best)
    fine = flow_path(H2, O2, O1, np.geomspace(1e-6, 1e4, 200001))
    by_force = np.linalg.norm(fine - best, axis=1).min() / np.linalg.norm(O1 - O2)
    assert distance == pytest.approx(by_force, rel=1e-6)
    assert distance > 0.01


def test_path_distance_ends_and_scale() -> None:
    assert path_distance(H2, O2, O1, O1) == pytest.approx(0.0, abs=1e-12)
    assert path_distance(H2, O2, O1, O2) == pytest.approx(0.0, abs=1e-12)
    best = combined_optimum([H1, H2], [O1, O2], [20, 10])
    once = path_distance(H2, O2, O1, best)
    assert path_distance(4 * H2, 3 * O2, 3 * O1, 3 * best) == pytest.approx(once, rel=1e-6)


def test_replay_of_one_sample_can_forget_more_and_replay_of_all_cannot() -> None:
    """Dataset 1: two inputs at 120 degrees. Dataset 2: one input leaning towards both.

    Start 0 and w* = -e3, so Dataset 1 is already fitted and stage 2 pushes its two samples alike; fitting one of them
    along with Dataset 2 pushes the other further than both were pushed.
    """
    inputs1 = np.array([[np.sqrt(3.0) / 2.0, 0.5, 0.0], [-np.sqrt(3.0) / 2.0, 0.5, 0.0]])
    inputs2, target = np.array([[0.0, 0.6, 0.8]]), np.array([0.0, 0.0, -1.0])
    first, second = (inputs1, inputs1 @ target), (inputs2, inputs2 @ target)
    after1, sequential = sequential_weights(np.zeros(3), [first, second])

    def forgetting(weights: np.ndarray) -> float:
        return float(np.sum((inputs1 @ weights - first[1]) ** 2))

    plain = forgetting(sequential)
    replay = forgetting(combined_weights(after1, [second, (inputs1[:1], first[1][:1])]))
    assert plain == pytest.approx(0.64 * 2 * 0.3**2)
    assert replay == pytest.approx(0.64 * (0.45 / 0.91) ** 2)
    assert replay > 1.3 * plain
    assert forgetting(combined_weights(after1, [first, second])) < 1e-20


EYE = np.eye(2)
