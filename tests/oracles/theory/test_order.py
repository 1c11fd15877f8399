"""The order of samples: the closed forms equal SGD written out, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from src.oracles.theory.order import long_run_variance, retention, sample_weights, weight_after_epoch


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
    assert weight_after_epoch(3.0, [5.0, -2.0], retention(0.5, 2.0)) == -2.0


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


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: retention(0.0, 1.0), "lr"),
        (lambda: retention(2.0, 1.0), "lr"),
        (lambda: retention(0.1, 1.0, 0), "n_repeats"),
        (lambda: sample_weights(3, 1.0), "q"),
        (lambda: sample_weights(-1, 0.5), "n"),
        (lambda: weight_after_epoch(0.0, [[1.0]], 0.5), "centres"),
        (lambda: long_run_variance(-1.0, 0.5), "centre_variance"),
        (lambda: long_run_variance(1.0, -1.0), "q"),
    ],
)
def test_outside_its_range_names_the_argument(call: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}="):
        call()
