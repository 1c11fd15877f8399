"""The expected best score of k trials, for every k: how much further trials of a tuning would gain."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from src.comparison.statistics import Floats


def best_of(scores: Sequence[float]) -> Floats:
    """Expected best score of k = 1, ..., n trials, from n scores of which larger is better: [n].

    The mean over all subsets of k of the n trials: the unbiased estimate of Tang et al. (2020, "Showing Your Work
    Doesn't Always Work", ACL); the expectation itself is Dodge et al.'s (2019, "Show Your Work", EMNLP). Trial i of the
    sorted scores is the best of C(i - 1, k - 1) of the C(n, k) subsets.
    """
    ordered, n = sorted(scores), len(scores)
    return np.array(
        [sum(math.comb(i, k - 1) * score for i, score in enumerate(ordered)) / math.comb(n, k) for k in range(1, n + 1)]
    )


def best_of_band(scores: Sequence[float], lowest: float, highest: float, level: float = 0.95) -> tuple[Floats, Floats]:
    """Lower and upper end of a band that holds the whole curve of expected best scores with probability `level`: [n]
    each.

    The exact Kolmogorov-Smirnov band of the score's distribution, carried to the curve (Lourie, Cho & He 2024, "Show
    Your Work with Confidence", NAACL): the distribution of the best of k is F^k, which falls as F rises. Scores lie in
    [lowest, highest]. Valid for independent trials of any continuous distribution, conservative with ties and with
    evenly spread points.
    """
    ordered, n = np.sort(np.asarray(scores, dtype=float)), len(scores)
    margin, steps, k = _margin(n, level), np.arange(n + 1) / n, np.arange(1, n + 1)[:, None]
    pessimistic = np.clip(steps + margin, 0, 1)  # F at `lowest` and at each score
    optimistic = np.append(np.clip(steps - margin, 0, 1), 1.0)  # F at lowest and each score, and at highest
    low = np.diff(pessimistic**k, axis=1, prepend=0) @ np.concatenate([[lowest], ordered])
    high = np.diff(optimistic**k, axis=1, prepend=0) @ np.concatenate([[lowest], ordered, [highest]])
    return low, high


@functools.cache
def _margin(n: int, level: float) -> float:
    from scipy.stats import kstwo

    return float(kstwo.ppf(level, n))
