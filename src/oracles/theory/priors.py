"""Class priors: what changes when the mix of classes changes between Dataset 1 and Dataset 2 and nothing else does."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import wrightomega

from src.oracles.theory.validity import Array, require, require_counts, require_nonnegative, vector


def bias_change(priors1: npt.ArrayLike, priors2: npt.ArrayLike) -> Array:
    """The optimal change of each logit's bias under label shift, log pi2_k - log pi1_k, up to one constant for all k.

    -inf for a class absent from Dataset 2: no finite training reaches it. Valid where p(x|k) is the same in both and
    the model is at Dataset 1's optimum; every class must occur in Dataset 1. Priors (K,) may be counts. Source: Bayes'
    rule (Saerens, Latinne and Decaestecker 2002).
    """
    first, second = vector("priors1", priors1), vector("priors2", priors2)
    require(second.size == first.size, "priors2", second.size, f"must have {first.size} classes as priors1 has")
    require(bool((first > 0).all()), "priors1", first, "every class must occur in Dataset 1")
    require(bool((second >= 0).all()) and second.sum() > 0, "priors2", second, "must be shares, not all 0")
    with np.errstate(divide="ignore"):
        change: Array = np.log(second / second.sum()) - np.log(first / first.sum())
    return change


def absent_class_growth(n_present: int) -> float:
    """d(1/p)/d(eta t) in the long run for the probability p of a class absent from the data: 1 + 1/m, m classes
    present.

    Setting of `absent_class_probability`; unequal priors of the present classes give the same slope in the end. So p
    falls like 1/t only, never exponentially.
    """
    require_counts(1, n_present=n_present)
    return 1.0 + 1.0 / n_present


def absent_class_probability(start: float, time: float, n_present: int) -> float:
    """p of a class absent from the data after bias-only gradient flow of the mean cross-entropy for `time` = eta t.

    The m = `n_present` other classes are equally frequent and start equally likely; `start` = p(0) in (0, 1). Solves
    d(1/p)/dt = (1 - p)(1 + 1/m) exactly: with v = 1/p - 1, v + log v grows linearly at rate 1 + 1/m. Derivation: the
    absent bias falls at rate p, each other one rises at rate p/m. Descent with small steps follows this flow.
    """
    require(0 < start < 1, "start", start, "must lie strictly between 0 and 1")
    require_nonnegative(time=time)
    v0 = (1.0 - start) / start
    level = v0 + math.log(v0) + absent_class_growth(n_present) * time
    return float(1.0 / (1.0 + wrightomega(level)))  # Wright's omega solves v + log v = level
