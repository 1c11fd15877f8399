"""Exact statistics of paired differences: one value per seed, few seeds, no assumption of normality.

All of them rest on the sign-flip test. If a and b perform equally well, the difference of a pair is +d or -d with equal
probability, so the 2^n assignments of signs to n differences are equally likely (Fisher 1935, The Design of
Experiments, section 21). Let S(F) be the sum of the differences in a subset F of the pairs. Flipping the pairs of F
lowers the total by 2 S(F); hence

    p(mean > 0) = #{F : S(F) <= 0} / 2^n,    p(mean < 0) = #{F : S(F) >= 0} / 2^n,    two-sided p = min(1, 2 min)

where the empty F is the data as observed. For a null mean mu, subtract mu from every difference: S(F) <= |F| mu states
that the mean over F is at most mu, so the ends of the interval that inverts the test are order statistics of the 2^n -
1 subset means (Hartigan 1969, JASA 64:1303). Up to `MAX_EXACT` differences nothing is approximated.

Differences have shape [..., n], seeds on the last axis; results have shape [...]. Zeros count as differences. Sums
within `TIE` times the sum of magnitudes are ties, and ties count against the alternative: accuracies are fractions k/N,
so ties are common and rounding must not decide them.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Alternative = Literal["two-sided", "greater", "less"]

ALPHA = 0.05
"""Level of every verdict; intervals have 1 - ALPHA."""

MAX_ENUMERATED = 14
"""Up to this n, all 2^n subsets are enumerated, for many tests at once."""
MAX_EXACT = 32
"""Up to this n, subsets are counted exactly by meeting in the middle: 2^(n/2) operations instead of 2^n."""
N_DRAWN = 1 << 17
"""Number of random subsets for larger n. They include the empty one, which keeps the test valid (Hemerik and Goeman
2018, TEST 27:811), and are drawn once for each n, so p-values are reproducible. Enough for 3,276 Holm-corrected tests
at 5 %."""
TIE = 1e-10
CHUNK = 1 << 22
"""Number of sums held in memory at once."""


def sign_flip_p(differences: ArrayLike, *, null: float = 0.0, alternative: Alternative = "two-sided") -> Floats:
    """p-values of the sign-flip test that differences [..., n] are symmetric around `null`; exact up to n = 32.

    The alternative "greater" is a mean above `null`. Raises ValueError on empty or non-finite differences.
    """
    values = _as_rows(differences)
    greater, less, n_subsets = _counts(values - null, TIE * np.sum(np.abs(values) + abs(null), axis=-1))
    if alternative == "two-sided":
        p = np.minimum(1.0, 2.0 * np.minimum(greater, less) / n_subsets)
    else:
        p = (greater if alternative == "greater" else less) / n_subsets
    return p.reshape(np.shape(differences)[:-1])


def sign_flip_interval(differences: ArrayLike, *, alpha: float = ALPHA) -> tuple[Floats, Floats]:
    """The means that the two-sided test does not reject at level `alpha`: (low, high), each of shape [...].

    (-inf, inf) if n < `seeds_needed(1, alpha)`, where the test rejects no mean.
    """
    values = _as_rows(differences)
    shape, n = np.shape(differences)[:-1], values.shape[-1]
    # The test rejects a mean while (1 + number of subset means below it) / n_subsets <= alpha / 2.
    n_subsets = N_DRAWN if n > MAX_EXACT else 2**n
    rank = math.floor(n_subsets * alpha / 2 + 1e-9)
    if rank == 0:
        return np.full(shape, -np.inf), np.full(shape, np.inf)
    return _smallest_subset_mean(values, rank).reshape(shape), -_smallest_subset_mean(-values, rank).reshape(shape)


def finite(end: float | Floats) -> float | None:
    """One end of an interval; None if it is open."""
    return float(end) if np.isfinite(end) else None


def _as_rows(differences: ArrayLike) -> Floats:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] == 0:
        raise ValueError("differences: none given; at least one pair is needed")
    if not np.all(np.isfinite(values)):
        raise ValueError("differences: not all finite; leave diverged runs out before testing")
    return values.reshape(-1, values.shape[-1])


@lru_cache(maxsize=4)
def _subsets(n: int) -> Floats:
    """Membership [subsets, n] of the subsets to flip, the empty one first: all of them, or random ones."""
    if n <= MAX_EXACT:
        return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.float64)
    return _drawn(n)


def _drawn(n: int) -> Floats:
    """Random subsets, the empty one first."""
    members = np.random.default_rng(n).integers(0, 2, size=(N_DRAWN, n)).astype(np.float64)
    members[0] = 0.0
    return members


def _counts(values: Floats, tie: Floats) -> tuple[Floats, Floats, int]:
    """#{F : S(F) <= 0} and #{F : S(F) >= 0} for each row of `values` [m, n], and the number of subsets."""
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
    for rows in _chunks(m, len(members)):
        sums = values[rows] @ members.T
        greater[rows] = np.count_nonzero(sums <= tie[rows, None], axis=1)
        less[rows] = np.count_nonzero(sums >= -tie[rows, None], axis=1)
    return greater, less, len(members)


def _chunks(n_rows: int, n_columns: int) -> list[slice]:
    """Slices of rows that keep [rows, columns] within `CHUNK` numbers."""
    step = max(1, CHUNK // n_columns)
    return [slice(start, start + step) for start in range(0, n_rows, step)]


def _halves(values: Floats) -> tuple[Floats, Floats]:
    """Subset sums of the first and of the second half; every subset sum is one of each, added."""
    middle = len(values) // 2
    return _subsets(middle) @ values[:middle], _subsets(len(values) - middle) @ values[middle:]


def _smallest_subset_mean(values: Floats, rank: int) -> Floats:
    """The `rank`-th smallest mean over a non-empty subset, for each row of `values` [m, n]."""
    m, n = values.shape
    if MAX_ENUMERATED < n <= MAX_EXACT:
        return np.array([_bisect_subset_mean(row, rank) for row in values])
    members = _subsets(n)[1:]
    members = members[members.any(axis=1)]  # a random draw may repeat the empty subset, which rejects nothing
    rank -= N_DRAWN - 1 - len(members) if n > MAX_EXACT else 0
    sizes = members.sum(axis=1)
    result = np.empty(m)
    for rows in _chunks(m, len(members)):
        means = (values[rows] @ members.T) / sizes
        result[rows] = np.partition(means, rank - 1, axis=1)[:, rank - 1]
    return result


def _bisect_subset_mean(values: Floats, rank: int) -> float:
    """The same for one row too long to enumerate: the least mu with `rank` subset means below (1e-12 of the range)."""
    left, right = _halves(values)
    left_sizes, right_sizes = _halves(np.ones(len(values)))
    low, high = float(values.min()), float(values.max())
    tie = TIE * 1e-2 * float(np.abs(values).sum())
    resolution = 1e-12 * max(high - low, float(np.abs(values).max()))

    def n_below(mean: float) -> int:
        sums = np.sort(right - mean * right_sizes)
        n_subsets = int(np.searchsorted(sums, tie - (left - mean * left_sizes), side="right").sum())
        return n_subsets - 1  # without the empty subset

    if n_below(low) >= rank:
        return low
    while high - low > resolution:
        middle = (low + high) / 2
        low, high = (low, middle) if n_below(middle) >= rank else (middle, high)
    return high


def heterogeneity_p(differences: ArrayLike) -> float:
    """p-value of "the cells' means differ": `differences` [cells, n], the same seeds in every cell.

    What a seed has beyond its mean over the cells is flipped in all cells at once, which keeps the correlation of cells
    that share runs. The statistic is the sum over cells of the squared standardised mean.
    """
    values = np.asarray(differences, dtype=np.float64)
    beyond = values - values.mean(axis=0)
    size = np.sqrt(np.sum(beyond**2, axis=1, keepdims=True))
    scaled = np.divide(beyond, size, out=np.zeros_like(beyond), where=size > TIE * np.abs(values).max())
    members = _subsets(values.shape[1]) if values.shape[1] <= MAX_ENUMERATED else _drawn(values.shape[1])
    statistic = np.concatenate(
        [np.sum(((1 - 2 * members[rows]) @ scaled.T) ** 2, axis=1) for rows in _chunks(len(members), len(values))]
    )
    return float(np.mean(statistic >= statistic[0] * (1 - TIE)))


def is_skewed(differences: ArrayLike) -> bool:
    """Whether the skewness of differences [n] exceeds 2.5 standard errors of that of normal ones."""
    values = np.asarray(differences, dtype=np.float64)
    centred, spread = values - values.mean(), float(values.std())
    return spread > 0 and abs(float(np.mean((centred / spread) ** 3))) > 2.5 * math.sqrt(6 / len(values))


def seeds_needed(n_tests: int = 1, alpha: float = ALPHA) -> int:
    """Fewest seeds that can decide one of `n_tests` Holm-corrected two-sided tests: n >= 1 + log2(n_tests / alpha)."""
    assert n_tests >= 1
    assert 0 < alpha < 1
    return next(n for n in itertools.count(1) if n_tests * 2.0 ** (1 - n) <= alpha)


def holm(p_values: ArrayLike, *, n_tests: int | None = None, most_true: int | None = None) -> Floats:
    """Holm's adjusted p-values (1979, Scand. J. Stat. 6:65), in the order given.

    `n_tests`: size of the family if some of its members are not tested yet; at least the number given. `most_true`: of
    its null hypotheses, if some exclude each other (Shaffer 1986, JASA 81:826).
    """
    p = np.asarray(p_values, dtype=np.float64)
    assert p.ndim == 1
    order = np.argsort(p, kind="stable")
    factors = max(len(p), n_tests or 0) - np.arange(len(p))
    factors = factors if most_true is None else np.minimum(factors, most_true)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order])) if len(p) else p
    return adjusted


def non_inferiority_p(differences: ArrayLike, margin: float) -> Floats:
    """p-value of "the mean is above -margin": a is worse than b by less than the margin, if more is better."""
    assert margin >= 0
    return sign_flip_p(differences, null=-margin, alternative="greater")


def equivalence_p(differences: ArrayLike, margin: float) -> Floats:
    """p-value of "the mean is within the margin of 0": two one-sided tests (Schuirmann 1987), the larger p of the two.

    At most alpha exactly where the interval at level 2 alpha lies within the margin. Needs 5 seeds at 5 %.
    """
    assert margin > 0
    above = sign_flip_p(differences, null=-margin, alternative="greater")
    return np.maximum(above, sign_flip_p(differences, null=margin, alternative="less"))
