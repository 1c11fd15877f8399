"""Judges predictions against paired differences: a sign, a margin, or an order of conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from src.comparison.statistics import (
    ALPHA,
    equivalence_p,
    finite,
    holm,
    non_inferiority_p,
    seeds_needed,
    sign_flip_interval,
    sign_flip_p,
)

Prediction = Literal["positive", "negative", "non_inferior", "equivalent"]
PredictionVerdict = Literal["supported", "refuted", "equivalent", "inconclusive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """A predicted order of conditions compared with the measured values; seeds are the blocks."""

    p: float
    """Page's test of an increasing trend."""
    p_opposite: float
    """Page's test of a decreasing trend."""
    largest_drop: float
    """The largest amount by which a later mean falls below an earlier one; 0 if the means never fall."""
    drop_p: tuple[float, ...]
    """For each step from a condition to the next: Holm-adjusted p of "the mean falls here"."""
    rest_p: float
    """The same test of a rise without the largest step: a flat line with one jump rises by its jump alone."""


def increasing_trend(values: ArrayLike) -> Trend:
    """Tests whether the values rise with the condition; for a falling trend pass -values.

    Page's L (1963, JASA 58:216; scipy selects the exact distribution for small tables) and the exact sign-flip test of
    every single step. `values`: [seeds >= 2, conditions >= 3], conditions in the predicted order.
    """
    from scipy.stats import page_trend_test

    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 3 or not np.all(np.isfinite(table)):
        raise ValueError(
            f"values of shape {table.shape}: a trend needs finite values of 2 seeds x 3 conditions at least"
        )
    means = table.mean(axis=0)
    largest = int(np.argmax(np.diff(means)))
    rest = np.delete(table, largest + 1, axis=1)
    rest[:, largest + 1 :] -= (table[:, largest + 1] - table[:, largest])[:, None]
    is_long = rest.shape[1] > 2
    rest_p = page_trend_test(rest).pvalue if is_long else sign_flip_p(np.diff(rest).ravel(), alternative="greater")
    return Trend(
        p=float(page_trend_test(table).pvalue),
        p_opposite=float(page_trend_test(table[:, ::-1]).pvalue),
        largest_drop=float(np.max(np.maximum.accumulate(means) - means)),
        drop_p=tuple(holm(sign_flip_p(np.diff(table, axis=1).T, alternative="less")).tolist()),
        rest_p=float(rest_p),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The verdict on a prediction. `p` and the ends of the interval are None if there are too few seeds."""

    verdict: PredictionVerdict
    effect: float
    ci_low: float | None
    ci_high: float | None
    p: float | None
    """Of the test that the prediction requires: two-sided for a sign, one-sided against the margin otherwise."""
    n: int
    reason: str


def judge_effect(differences: ArrayLike, predicted: Prediction, *, margin: float | None = None) -> Judgement:
    """Judges one contrast by one difference per seed, `differences` [n].

    positive, negative: *supported* or *refuted* by the sign of the mean if the two-sided test rejects 0; otherwise
    *equivalent* if a margin is given and the mean is shown to lie within it. non_inferior: *supported* if the mean is
    shown to be above -margin (one-sided), but *equivalent* if it is below 0 with certainty; *refuted* if the whole
    interval lies below -margin. equivalent: *supported* if shown within the margin; *refuted* if the whole interval
    lies outside. Otherwise *inconclusive*.
    """
    values = np.asarray(differences, dtype=np.float64)
    assert values.ndim == 1
    by_margin = predicted in ("non_inferior", "equivalent")
    if by_margin and margin is None:
        raise ValueError(f"margin=None: the prediction {predicted} needs a margin, fixed before any run")
    n, effect = len(values), float(np.mean(values))
    needed = seeds_needed(1, 2 * ALPHA if by_margin else ALPHA)
    low, high = map(finite, sign_flip_interval(values))
    verdict: PredictionVerdict = "inconclusive"
    p: float | None = None
    if n < needed:
        reason = f"too few seeds: {n} cannot reach {ALPHA:g}, {needed} can"
    elif by_margin:
        assert margin is not None
        p = float((non_inferiority_p if predicted == "non_inferior" else equivalence_p)(values, margin))
        within = f"{'above -' if predicted == 'non_inferior' else 'within '}{margin:g}"
        if p <= ALPHA and predicted == "non_inferior" and effect < 0 and float(sign_flip_p(values)) <= ALPHA:
            verdict, reason = "equivalent", f"the mean is below 0 with certainty, but shown to be {within}"
        elif p <= ALPHA:
            verdict, reason = "supported", f"the mean is shown to be {within}"
        elif (high is not None and high < -margin) or (predicted == "equivalent" and low is not None and low > margin):
            verdict, reason = "refuted", "the interval lies beyond the margin"
        else:
            reason = f"the mean is shown to be neither {within} nor beyond"
    else:
        p = float(sign_flip_p(values))
        if p <= ALPHA:
            verdict = "supported" if (effect > 0) == (predicted == "positive") else "refuted"
            reason = f"the mean is {'above' if effect > 0 else 'below'} 0"
        elif margin is not None and float(equivalence_p(values, margin)) <= ALPHA:
            verdict, reason = "equivalent", f"the mean is shown to be within {margin:g} of 0"
        else:
            reason = "the sign of the mean is uncertain"
    return Judgement(verdict=verdict, effect=effect, ci_low=low, ci_high=high, p=p, n=n, reason=reason)
