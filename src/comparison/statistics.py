"""Exact statistics of paired differences: one number per seed, few seeds, no normality.

Everything rests on one test. If a and b do equally well, the difference of a pair is as likely to be +d as -d, so the
2^n ways to flip the signs of n differences are equally likely (Fisher 1935, The Design of Experiments, section 21). With
S(F) the sum of the differences in a subset F of the pairs, flipping the pairs of F lowers the total by 2 S(F); hence

    p(mean > 0) = #{F : S(F) <= 0} / 2^n,    p(mean < 0) = #{F : S(F) >= 0} / 2^n,    two-sided p = min(1, 2 min)

the empty F being the data as they came. For a null mean mu every difference is lowered by mu, and S(F) <= |F| mu says that
the mean over F is at most mu: the end points of the interval that inverts the test are order statistics of the 2^n - 1
subset means (Hartigan 1969, JASA 64:1303). Nothing is approximated up to `MAX_EXACT` differences.

Arrays: differences have the seeds on the last axis, shape [..., n]; the result has shape [...]. Zeros count as
differences (a flip leaves them as they are). Sums within `TIE` of the sum of magnitudes are ties, and ties count against
the claim: accuracies are fractions k/N, so ties are common and must not be decided by rounding.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Alternative = Literal["two-sided", "greater", "less"]

MAX_ENUMERATED = 14
"""Up to here all 2^n subsets are listed, for many tests at once."""
MAX_EXACT = 32
"""Up to here subsets are counted exactly by meeting in the middle: 2^(n/2) work instead of 2^n."""
N_DRAWN = 1 << 17
"""Beyond, so many random flips are used, the identity among them, which keeps the test valid (Hemerik and Goeman 2018,
TEST 27:811): drawn once for each n, so that a p-value is reproducible. They carry 3,276 Holm-corrected claims at 5 %."""
TIE = 1e-10
_CHUNK = 1 << 22


# ------------------------------------------------------------------------------------------------ the test


def sign_flip_p(differences: ArrayLike, *, null: float = 0.0, alternative: Alternative = "two-sided") -> Floats:
    """p-value of the sign-flip test that the differences are symmetric around `null`; exact up to 32 differences.

    `differences` [..., n], finite. "greater" means that the data speak for a mean above `null`.
    """
    values = _as_rows(differences)
    greater, less, n_flips = _counts(values - null, TIE * np.sum(np.abs(values) + abs(null), axis=-1))
    if alternative == "greater":
        p = greater / n_flips
    elif alternative == "less":
        p = less / n_flips
    else:
        p = np.minimum(1.0, 2.0 * np.minimum(greater, less) / n_flips)
    return p.reshape(np.shape(differences)[:-1])


def sign_flip_interval(differences: ArrayLike, *, alpha: float = 0.05) -> tuple[Floats, Floats]:
    """The means that the two-sided test does not reject at level `alpha`: (low, high), each of shape [...].

    (-inf, inf) when there are too few differences to reject any mean: fewer than `seeds_needed(1, alpha)`.
    """
    values = _as_rows(differences)
    n = values.shape[-1]
    shape = np.shape(differences)[:-1]
    n_flips = N_DRAWN if n > MAX_EXACT else 2**n
    rank = math.floor(
        n_flips * alpha / 2 + 1e-9
    )  # a mean is rejected while (1 + #subset means below it)/flips <= alpha/2
    if rank == 0:
        return np.full(shape, -np.inf), np.full(shape, np.inf)
    low = _smallest_subset_mean(values, rank)
    high = -_smallest_subset_mean(-values, rank)
    return low.reshape(shape), high.reshape(shape)


def _as_rows(differences: ArrayLike) -> Floats:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] == 0:
        raise ValueError("differences: none given; at least one pair is needed")
    if not np.all(np.isfinite(values)):
        raise ValueError("differences: not all finite; leave diverged runs out before testing")
    return values.reshape(-1, values.shape[-1])


@lru_cache(maxsize=4)
def _subsets(n: int) -> Floats:
    """Membership [flips, n] of the subsets to flip, the empty one first: all of them, or the drawn ones."""
    if n <= MAX_EXACT:
        return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.float64)
    members = np.random.default_rng(n).integers(0, 2, size=(N_DRAWN, n)).astype(np.float64)
    members[0] = 0.0
    return members


def _counts(values: Floats, tie: Floats) -> tuple[Floats, Floats, int]:
    """#{F : S(F) <= 0}, #{F : S(F) >= 0} for each row of `values` [m, n], and the number of subsets."""
    m, n = values.shape
    greater, less = np.empty(m), np.empty(m)
    if MAX_ENUMERATED < n <= MAX_EXACT:
        for row in range(m):
            left, right = _halves(values[row])
            right.sort()
            greater[row] = np.searchsorted(right, tie[row] - left, side="right").sum()
            less[row] = 2**n - np.searchsorted(right, -tie[row] - left, side="left").sum()
        return greater, less, 2**n
    members = _subsets(n)
    step = max(1, _CHUNK // len(members))
    for start in range(0, m, step):
        rows = slice(start, start + step)
        sums = values[rows] @ members.T
        greater[rows] = np.count_nonzero(sums <= tie[rows, None], axis=1)
        less[rows] = np.count_nonzero(sums >= -tie[rows, None], axis=1)
    return greater, less, len(members)


def _halves(values: Floats) -> tuple[Floats, Floats]:
    """Subset sums of the first and of the second half: every subset sum is one of each added."""
    middle = len(values) // 2
    return _subsets(middle) @ values[:middle], _subsets(len(values) - middle) @ values[middle:]


def _smallest_subset_mean(values: Floats, rank: int) -> Floats:
    """The `rank`-th smallest mean over a non-empty subset, for each row of `values` [m, n]."""
    m, n = values.shape
    result = np.empty(m)
    if MAX_ENUMERATED < n <= MAX_EXACT:
        for row in range(m):
            result[row] = _bisect_subset_mean(values[row], rank)
        return result
    members = _subsets(n)[1:]
    members = members[members.any(axis=1)]  # among drawn flips the identity may come again: it never rejects anything
    rank -= N_DRAWN - 1 - len(members) if n > MAX_EXACT else 0
    sizes = members.sum(axis=1)
    step = max(1, _CHUNK // len(members))
    for start in range(0, m, step):
        rows = slice(start, start + step)
        means = (values[rows] @ members.T) / sizes
        result[rows] = np.partition(means, rank - 1, axis=1)[:, rank - 1]
    return result


def _bisect_subset_mean(values: Floats, rank: int) -> float:
    """The same for one row too long to list: the least mu below which `rank` subset means lie, to 1e-12 of the range."""
    n = len(values)
    left, right = _halves(values)
    left_sizes, right_sizes = _halves(np.ones(n))
    low, high = float(values.min()), float(values.max())
    tie = TIE * 1e-2 * float(np.abs(values).sum())
    resolution = 1e-12 * max(high - low, float(np.abs(values).max()))

    def n_below(mean: float) -> int:
        sums = np.sort(right - mean * right_sizes)
        return int(np.searchsorted(sums, tie - (left - mean * left_sizes), side="right").sum()) - 1  # not the empty one

    if n_below(low) >= rank:
        return low
    while high - low > resolution:
        middle = (low + high) / 2
        low, high = (low, middle) if n_below(middle) >= rank else (middle, high)
    return high


# ------------------------------------------------------------------------------------------------ how many seeds


def smallest_p(n: int, *, alternative: Alternative = "two-sided") -> float:
    """The least p-value that n differences can give: 2^(1-n), or 2^-n one-sided."""
    n_flips = N_DRAWN if n > MAX_EXACT else 2**n
    return min(1.0, (2.0 if alternative == "two-sided" else 1.0) / n_flips)


def seeds_needed(n_claims: int = 1, alpha: float = 0.05) -> int:
    """Fewest seeds with which one of `n_claims` Holm-corrected two-sided claims can be decided: n >= 1 + log2(m/alpha)."""
    assert n_claims >= 1
    assert 0 < alpha < 1
    n = 1
    while n_claims * 2.0 ** (1 - n) > alpha:
        n += 1
    return n


def claims_carried(n: int, alpha: float = 0.05) -> int:
    """Most Holm-corrected two-sided claims among which n seeds can still decide one: floor(alpha 2^(n-1))."""
    return math.floor(alpha * 2.0 ** (n - 1))


# ------------------------------------------------------------------------------------------------ many tests


def holm(p_values: ArrayLike, *, n_claims: int | None = None) -> Floats:
    """Holm's adjusted p-values (1979, Scand. J. Stat. 6:65), in the order given; each is at least the p it comes from.

    `n_claims`: size of the family when some of its members are not tested yet (never less than the number given).
    """
    p = np.asarray(p_values, dtype=np.float64)
    assert p.ndim == 1
    family = max(len(p), n_claims or 0)
    order = np.argsort(p, kind="stable")
    factors = family - np.arange(len(p))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order])) if len(p) else p
    return adjusted


def everywhere_p(p_values: ArrayLike) -> float:
    """p-value of "it holds in every cell": the largest, without correction (Berger 1982, Technometrics 24:295)."""
    return float(np.max(np.asarray(p_values, dtype=np.float64)))


# ------------------------------------------------------------------------------------------------ margins


def non_inferiority_p(differences: ArrayLike, margin: float) -> Floats:
    """p-value of "the mean is above -margin": a no worse than b by more than the margin, more being better."""
    assert margin >= 0
    return sign_flip_p(differences, null=-margin, alternative="greater")


def equivalence_p(differences: ArrayLike, margin: float) -> Floats:
    """p-value of "the mean is within the margin of 0": two one-sided tests (Schuirmann 1987), the larger p of the two.

    At most alpha exactly where the interval at level 2 alpha lies within the margin. Needs 5 seeds at 5 %.
    """
    assert margin > 0
    above = sign_flip_p(differences, null=-margin, alternative="greater")
    below = sign_flip_p(differences, null=margin, alternative="less")
    return np.maximum(above, below)
