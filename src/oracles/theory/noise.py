"""How noisy the surface of a data set is at fixed weights: the spread of a mean loss and of its gradient over draws.

Every variance falls as 1/n (log-log slope -1): the surface of a small Dataset 2 is as much its sample as its
distribution.
"""

from __future__ import annotations

from src.oracles.theory.validity import require, require_counts, require_nonnegative


def mean_loss_variance(loss_variance: float, n: int, pool: int | None = None) -> float:
    """Variance of the mean loss of n samples at fixed weights: V/n; a subset of a pool of M without replacement
    (S^2/n)(1 - n/M).

    `loss_variance` is the variance of one sample's loss: of the distribution, or with `pool` of the pool itself,
    divisor M - 1. Valid for weights that do not depend on the samples, 1 <= n (<= M). Source: Cochran 1977, theorem
    2.2.
    """
    require_nonnegative(loss_variance=loss_variance)
    require_counts(1, n=n)
    if pool is None:
        return loss_variance / n
    require_counts(2, pool=pool)
    require(n <= pool, "n", n, f"must not exceed the pool of {pool}")
    return loss_variance / n * (1.0 - n / pool)


def linear_loss_variance(excess: float, noise: float, n: int) -> float:
    """Variance of the mean *half* squared error of a linear model, (|e|^2 + s2)^2 / (2n); four times that without the
    half.

    `excess` |e|^2 = |w - w*|^2, `noise` s2; x ~ N(0, I) and Gaussian noise, weights independent of the samples. Source:
    the residual is N(0, v), v = |e|^2 + s2, and Var(r^2/2) = v^2/2.
    """
    require_nonnegative(excess=excess, noise=noise)
    require_counts(1, n=n)
    return (excess + noise) ** 2 / (2.0 * n)


def gradient_noise(dim: int, excess: float, noise: float, n: int) -> float:
    """E|g - E g|^2 of the gradient of the mean half squared error over n samples, [(d+1)|e|^2 + d s2]/n.

    Setting of `linear_loss_variance`. Source: E|x|^2 (x.e)^2 = (d+2)|e|^2 for x ~ N(0, I_d), less |E g|^2 = |e|^2.
    """
    require_counts(1, dim=dim, n=n)
    require_nonnegative(excess=excess, noise=noise)
    return ((dim + 1) * excess + dim * noise) / n
