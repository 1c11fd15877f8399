"""What samples decide: the noise of the loss surface, the order in which SGD meets them, and the shares of classes.

- Noise: every variance of a mean over n samples falls as 1/n (log-log slope -1), so the surface of a small Dataset 2 is
  as much its sample as its distribution. Valid for weights that do not depend on the samples.
- Order: plain SGD, one sample a step, on losses f_i(w) = a (w - c_i)^2 / 2 of one weight. A step with rate eta keeps
  q = 1 - eta a of the weight's distance to c_i, so every formula is exact algebra in q. Valid for |q| < 1.
- Classes: what changes when their shares change between Dataset 1 and Dataset 2 and nothing else does.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import wrightomega

from src.comparison.statistics import Floats


def mean_loss_variance(loss_variance: float, n: int, pool: float = math.inf) -> float:
    """Variance of the mean loss of n samples at fixed weights: V/n; a subset of a pool of M without replacement
    (S^2/n)(1 - n/M).

    `loss_variance` is the variance of one sample's loss: of the distribution, or with `pool` of the pool itself,
    divisor M - 1. Source: Cochran 1977, theorem 2.2.
    """
    return loss_variance / n * (1.0 - n / pool)


def linear_loss_variance(excess: float, noise: float, n: int) -> float:
    """Variance of the mean *half* squared error of a linear model, (|e|^2 + s2)^2 / (2n); four times that without the
    half.

    `excess` |e|^2 = |w - w*|^2, `noise` s2; x ~ N(0, I) and Gaussian noise. Source: the residual is N(0, v), v = |e|^2
    + s2, and Var(r^2/2) = v^2/2.
    """
    return (excess + noise) ** 2 / (2.0 * n)


def gradient_noise(dim: int, excess: float, noise: float, n: int) -> float:
    """E|g - E g|^2 of the gradient of the mean half squared error over n samples, [(d+1)|e|^2 + d s2]/n.

    Setting of `linear_loss_variance`. Source: E|x|^2 (x.e)^2 = (d+2)|e|^2 for x ~ N(0, I_d), less |E g|^2 = |e|^2.
    """
    return ((dim + 1) * excess + dim * noise) / n


def retention(lr: float, curvature: float, n_repeats: int = 1) -> float:
    """q^m, q = 1 - eta a: what m = `n_repeats` steps in a row on one sample keep of the weight's distance to it."""
    return float((1.0 - lr * curvature) ** n_repeats)


def sample_weights(n: int, q: float) -> Floats:
    """How much each of n samples counts in the end, (1-q) q^(n-i) for i = 1..n: the latest the most (0 <= q < 1)."""
    weights: Floats = (1.0 - q) * q ** np.arange(n - 1, -1, -1, dtype=np.float64)
    return weights


def weight_after_epoch(start: float, centres: Floats, q: float) -> float:
    """The weight after one pass in the given order, q^n w0 + (1-q) sum_i q^(n-i) c_i.

    `centres` c_i (n,) in the order in which they are met, q of `retention`: with each sample m times in a block, q^m.
    """
    return float(q ** len(centres) * start + sample_weights(len(centres), q) @ centres)


def long_run_variance(centre_variance: float, q: float) -> float:
    """Variance of the weight in the long run, s2 (1 - q)/(1 + q), each block's sample drawn afresh with variance s2.

    Seen at the ends of blocks, q of `retention`: q^m for blocks of m. Longer blocks (smaller |q|) are noisier, s2 at
    worst for q >= 0. Source: stationary variance of the autoregression w' = q w + (1-q) c.
    """
    return centre_variance * (1.0 - q) / (1.0 + q)


def bias_change(priors1: npt.ArrayLike, priors2: npt.ArrayLike) -> Floats:
    """The optimal change of each logit's bias under label shift, log pi2_k - log pi1_k, up to one constant for all k.

    -inf for a class absent from Dataset 2: no finite training reaches it. Valid where p(x|k) is the same in both and
    the model is at Dataset 1's optimum; every class must occur in Dataset 1. Priors (K,) may be counts. Source: Bayes'
    rule (Saerens, Latinne and Decaestecker 2002).
    """
    first, second = np.asarray(priors1, np.float64), np.asarray(priors2, np.float64)
    with np.errstate(divide="ignore"):
        change: Floats = np.log(second / second.sum()) - np.log(first / first.sum())
    return change


def absent_class_probability(start: float, time: float, n_present: int) -> float:
    """p of a class absent from the data after bias-only gradient flow of the mean cross-entropy for `time` = eta t.

    The m = `n_present` other classes are equally frequent and start equally likely; `start` = p(0) in (0, 1). Solves
    d(1/p)/dt = (1 - p)(1 + 1/m) exactly: with v = 1/p - 1, v + log v grows linearly at rate 1 + 1/m. Derivation: the
    absent bias falls at rate p, each other one rises at rate p/m. Descent with small steps follows this flow. In the
    long run d(1/p)/dt is 1 + 1/m for unequal priors of the other classes, too: p falls like 1/t, never exponentially.
    """
    v0 = (1.0 - start) / start
    level = v0 + math.log(v0) + (1.0 + 1.0 / n_present) * time
    return float(1.0 / (1.0 + wrightomega(level)))  # Wright's omega solves v + log v = level
