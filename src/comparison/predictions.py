"""What differences say about a prediction: a verdict on one contrast, and the test of a predicted order.

Supported, refuted, equivalent or inconclusive, always with effect, interval and n, from the exact test of `statistics`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from src.comparison.statistics import (
    equivalence_p,
    holm,
    non_inferiority_p,
    seeds_needed,
    sign_flip_interval,
    sign_flip_p,
)

# ------------------------------------------------------------------------------------------------ trends


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """A predicted order of conditions against the values measured, seeds being the blocks."""

    p: float
    """Page's test of an increasing trend."""
    p_opposite: float
    """Page's test of a decreasing trend."""
    means: tuple[float, ...]
    fitted: tuple[float, ...]
    """The closest non-decreasing means, by least squares."""
    largest_drop: float
    """The furthest that a later mean falls under an earlier one; 0 if the means never fall."""
    drop_p: tuple[float, ...]
    """For each step from a condition to the next: Holm-adjusted p of "the mean falls here"."""


def increasing_trend(values: ArrayLike) -> Trend:
    """Does the measure rise with the condition? `values` [seeds, conditions >= 3], conditions in the predicted order.

    Page's L (1963, JASA 58:216; scipy chooses the exact distribution for small tables), isotonic regression by pooling
    adjacent violators (scipy), and the exact sign-flip test of every single step. For a falling trend pass -values.
    """
    from scipy.optimize import isotonic_regression
    from scipy.stats import page_trend_test

    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 3 or not np.all(np.isfinite(table)):
        raise ValueError(
            f"values of shape {table.shape}: a trend needs finite values of 2 seeds x 3 conditions at least"
        )
    means = table.mean(axis=0)
    earlier_best = np.maximum.accumulate(means)
    steps = np.diff(table, axis=1).T
    return Trend(
        p=float(page_trend_test(table).pvalue),
        p_opposite=float(page_trend_test(table[:, ::-1]).pvalue),
        means=tuple(means.tolist()),
        fitted=tuple(np.asarray(isotonic_regression(means).x).tolist()),
        largest_drop=float(np.max(earlier_best - means)),
        drop_p=tuple(holm(sign_flip_p(steps, alternative="less")).tolist()),
    )


# ------------------------------------------------------------------------------------------------ verdicts

Prediction = Literal["positive", "negative", "non_inferior", "equivalent"]
Verdict = Literal["supported", "refuted", "equivalent", "inconclusive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What the differences say about a prediction. `p` and the ends of the interval are None where seeds are too few."""

    verdict: Verdict
    effect: float
    ci_low: float | None
    ci_high: float | None
    p: float | None
    """Of the test that the prediction calls for: two-sided for a sign, one-sided against the margin otherwise."""
    n: int
    reason: str


def judge_effect(
    differences: ArrayLike, predicted: Prediction, *, margin: float | None = None, alpha: float = 0.05
) -> Judgement:
    """Verdict on one contrast from one difference per seed, `differences` [n].

    positive, negative: *supported* or *refuted* by the sign of a mean that the two-sided test tells from 0; else
    *equivalent* if a margin is given and the mean is shown to lie within it. non_inferior: *supported* if the mean is
    shown to be above -margin (level alpha, one-sided); *refuted* if the whole interval lies below -margin. equivalent:
    *supported* if shown within the margin; *refuted* if the whole interval lies outside. Otherwise *inconclusive*.
    """
    values = np.asarray(differences, dtype=np.float64)
    assert values.ndim == 1
    if predicted in ("non_inferior", "equivalent") and margin is None:
        raise ValueError(f"margin=None: the prediction {predicted} needs a margin, fixed before any run")
    n, effect = len(values), float(np.mean(values))
    by_margin = predicted in ("non_inferior", "equivalent")
    needed = seeds_needed(1, 2 * alpha if by_margin else alpha)
    low, high = (float(end) for end in sign_flip_interval(values, alpha=alpha))
    ends = {"ci_low": low if math.isfinite(low) else None, "ci_high": high if math.isfinite(high) else None}
    if n < needed:
        reason = f"too few seeds: {n} cannot reach {alpha:g}, {needed} can"
        return Judgement(verdict="inconclusive", effect=effect, p=None, n=n, reason=reason, **ends)

    verdict: Verdict = "inconclusive"
    if by_margin:
        assert margin is not None
        p = float((non_inferiority_p if predicted == "non_inferior" else equivalence_p)(values, margin))
        shown = f"{'above -' if predicted == 'non_inferior' else 'within '}{margin:g}"
        if p <= alpha:
            verdict, reason = "supported", f"the mean is shown to be {shown}"
        elif high < -margin or (predicted == "equivalent" and low > margin):
            verdict, reason = "refuted", "the interval lies beyond the margin"
        else:
            reason = f"the mean is not shown to be {shown}, nor beyond"
    else:
        p = float(sign_flip_p(values))
        if p <= alpha:
            verdict = "supported" if (effect > 0) == (predicted == "positive") else "refuted"
            reason = f"the mean is {'above' if effect > 0 else 'below'} 0"
        elif margin is not None and float(equivalence_p(values, margin)) <= alpha:
            verdict, reason = "equivalent", f"the mean is shown to be within {margin:g} of 0"
        else:
            reason = "the sign of the mean is not certain"
    return Judgement(verdict=verdict, effect=effect, p=p, n=n, reason=reason, **ends)
