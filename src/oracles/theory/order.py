"""The order of samples: plain SGD, one sample a step, on losses f_i(w) = a (w - c_i)^2 / 2 of one weight.

One step with rate eta keeps q = 1 - eta a of the weight's distance to c_i, so every formula is exact algebra in q.
Valid for |q| < 1, that is 0 < eta a < 2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from src.oracles.theory.validity import Array, require, require_counts, require_nonnegative, vector


def retention(lr: float, curvature: float, n_repeats: int = 1) -> float:
    """q^m, q = 1 - eta a: what m = `n_repeats` steps in a row on one sample keep of the weight's distance to it."""
    require_counts(1, n_repeats=n_repeats)
    q = 1.0 - lr * curvature
    require(abs(q) < 1, "lr", lr, f"lr * curvature = {lr * curvature:.3g} must lie strictly between 0 and 2")
    return float(q**n_repeats)


def sample_weights(n: int, q: float) -> Array:
    """How much each of n samples counts in the end, (1-q) q^(n-i) for i = 1..n: the latest the most (0 <= q < 1)."""
    require_counts(n=n)
    require(abs(q) < 1, "q", q, "must lie strictly between -1 and 1")
    weights: Array = (1.0 - q) * q ** np.arange(n - 1, -1, -1, dtype=np.float64)
    return weights


def weight_after_epoch(start: float, centres: npt.ArrayLike, q: float) -> float:
    """The weight after one pass in the given order, q^n w0 + (1-q) sum_i q^(n-i) c_i.

    `centres` c_i (n,) in the order in which they are met, q of `retention`: with each sample m times in a block, q^m.
    """
    samples = vector("centres", centres)
    return float(q**samples.size * start + sample_weights(samples.size, q) @ samples)


def long_run_variance(centre_variance: float, q: float) -> float:
    """Variance of the weight in the long run, s2 (1 - q)/(1 + q), each block's sample drawn afresh with variance s2.

    Seen at the ends of blocks, q of `retention`: q^m for blocks of m. Longer blocks (smaller |q|) are noisier, s2 at
    worst for q >= 0. Source: stationary variance of the autoregression w' = q w + (1-q) c.
    """
    require_nonnegative(centre_variance=centre_variance)
    require(abs(q) < 1, "q", q, "must lie strictly between -1 and 1")
    return centre_variance * (1.0 - q) / (1.0 + q)
