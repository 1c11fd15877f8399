"""Tests and intervals of paired differences that hold at any stop: after every seed, whatever decided to add another.

If a and b perform equally well, a difference x_t is symmetric around 0 given the earlier ones, so 1 + b(|x_t|)
sign(x_t) has the mean 1 for every stake |b| <= 1 that does not depend on the sign of x_t. The product of these factors,
E_t, is the wealth of a gambler in a fair game, and so is an average over several gamblers. By Ville's inequality
P(max_t E_t >= 1/p) <= p: hence 1 / max E is a p-value at every t, also at a t that depends on other cells and on the
future (Ramdas et al. 2023, Stat. Sci. 38:576; Howard et al. 2021, Ann. Stat. 49:1055, Lemma 3). docs/STATISTICS.md has
the proof.

The stakes are tanh(effect x_t / s_t): if the differences are normal with this mean and the deviation s_t, that is the
log-optimal stake. s_t comes from the spread of the earlier differences, so it is the same for x and x - mean: a larger
null mean lowers every factor of "the mean is greater", and the means that are not rejected form an interval.

Differences have shape [..., n], in the order of the seeds; results have shape [...].
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.comparison.statistics import ALPHA, TIE, Alternative, Floats

GAMBLERS = ((0.5, 1.0, 1), (1.0, 1.0, 1), (2.0, 1.0, 1), (4.0, 1.0, 2), (2.0, 0.85, 1))
"""(effect, largest stake, share of the initial wealth): the last one survives a large difference of the other sign."""
BLIND = 0.9
"""Largest stake while nothing is known of the spread."""
HALVINGS = 60


@dataclass(frozen=True, slots=True)
class AnyStop:
    """A comparison whose number of seeds depends on its results. `margin`: of equivalence, a decision as well."""

    margin: float | None = None


def log2_wealth(differences: ArrayLike, *, null: float | Floats = 0.0) -> Floats:
    """log2 E_t after each difference [..., n], of bets that the mean is greater than `null`."""
    x = np.asarray(differences, dtype=np.float64)
    centred = x - np.asarray(null)[..., None]
    centred = np.where(np.abs(centred) <= TIE * (np.abs(x) + np.abs(np.asarray(null)[..., None])), 0.0, centred)
    spread = _spread(x)
    is_known = spread > 0
    scaled = centred / np.where(is_known, spread, 1.0)
    wealth = []
    for effect, largest, _ in GAMBLERS:
        stake = np.where(is_known, np.tanh(effect * scaled), BLIND * min(1.0, effect) * np.sign(centred))
        with np.errstate(divide="ignore"):  # log 0: this gambler has lost everything
            wealth.append(np.cumsum(np.log2(1 + np.clip(stake, -largest, largest)), axis=-1))
    shares = np.array([share for *_, share in GAMBLERS])
    weighted = np.array(wealth) + np.log2(shares / shares.sum()).reshape(-1, *[1] * x.ndim)
    return np.asarray(np.logaddexp2.reduce(weighted, axis=0))


def _spread(x: Floats) -> Floats:
    """The standard deviation of the differences before each one, larger while there are few; 0 where it is unknown."""
    n = x.shape[-1]
    spread = np.zeros_like(x)
    for t in range(2, n):
        spread[..., t] = x[..., :t].std(axis=-1, ddof=1) * (1 + 2 / (t - 1))
    return np.where(spread > TIE * np.abs(x).max(axis=-1, keepdims=True), spread, 0.0)


def anytime_p(differences: ArrayLike, *, null: float = 0.0, alternative: Alternative = "two-sided") -> Floats:
    """p-value of "the mean is not `null`" that holds at any stop; of a one-sided alternative "greater" or "less"."""
    x = np.asarray(differences, dtype=np.float64)
    sides = {"greater": (1,), "less": (-1,), "two-sided": (1, -1)}[alternative]
    wealth = np.max([log2_wealth(side * x, null=side * null).max(axis=-1) for side in sides], axis=0)
    return np.asarray(np.minimum(1.0, len(sides) * np.exp2(-wealth)))


def anytime_equivalence_p(differences: ArrayLike, margin: float) -> Floats:
    """p-value of "the mean is within the margin of 0" that holds at any stop: the larger of two one-sided ones."""
    above = anytime_p(differences, null=-margin, alternative="greater")
    return np.asarray(np.maximum(above, anytime_p(differences, null=margin, alternative="less")))


def anytime_interval(differences: ArrayLike) -> tuple[Floats, Floats]:
    """The means that no `anytime_p` rejected so far: (low, high), each of shape [...]; infinite if none is rejected."""
    x = np.asarray(differences, dtype=np.float64)
    return _lowest_mean(x), -_lowest_mean(-x)


def _lowest_mean(x: Floats) -> Floats:
    """The largest mean below which every mean is rejected, by bisection: the wealth falls as the mean rises."""
    low, high = x.min(axis=-1) - 1e6 * (np.abs(x).max(axis=-1) + 1e-300), x.max(axis=-1)

    def rejects(mean: Floats) -> NDArray[np.bool_]:
        return np.asarray(log2_wealth(x, null=mean).max(axis=-1) >= -math.log2(ALPHA / 2))

    is_bounded = rejects(low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rejected = rejects(middle)
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return np.where(is_bounded, low, -np.inf)


@functools.cache
def fewest_seeds(n_tests: int = 1) -> int:
    """Fewest seeds that can decide one of `n_tests` Holm-corrected comparisons: all of one sign, far from 0."""
    assert n_tests >= 1
    best = 1e6 + np.arange(64) % 2
    reached = np.flatnonzero(2 * n_tests * np.exp2(-log2_wealth(best)) <= ALPHA)
    return int(reached[0]) + 1
