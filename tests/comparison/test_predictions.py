"""A verdict follows from the prediction and the data, and never from too few seeds.

Properties: each kind of prediction can be supported, refuted and inconclusive; five seeds are reported as too few; a trend
is detected, and so is a dip inside one.
"""

from __future__ import annotations

import numpy as np
import pytest

from src.comparison.predictions import increasing_trend, judge_effect

# ------------------------------------------------------------------------------------------------ trends


def test_trend_detects_a_rise_without_a_drop() -> None:
    table = np.arange(5.0) + np.random.default_rng(0).normal(0, 0.3, (8, 5))
    trend = increasing_trend(table)
    assert trend.p < 0.001
    assert trend.p_opposite > 0.99
    assert trend.largest_drop == 0.0
    assert min(trend.drop_p) == 1.0


def test_trend_detects_the_dip_of_a_double_descent() -> None:
    table = np.array([0.0, 1.0, 0.4, 1.2, 2.0]) + np.random.default_rng(0).normal(0, 0.05, (10, 5))
    trend = increasing_trend(table)
    assert trend.largest_drop == pytest.approx(0.6, abs=0.1)
    assert trend.drop_p[1] <= 4 * 2.0**-10


@pytest.mark.parametrize("shape", [[0, 0, 3, 3, 3], [0, 0, 0, 0, 3], [0, 3, 3]])
def test_a_flat_line_with_one_jump_is_rarely_a_trend_without_its_jump(shape: list[float]) -> None:
    """Page's test alone calls it one in almost every case."""
    rng = np.random.default_rng(0)
    found = [increasing_trend(np.array(shape) + rng.normal(size=(12, len(shape)))) for _ in range(100)]
    assert np.mean([trend.p <= 0.05 for trend in found]) > 0.9
    assert np.mean([trend.rest_p <= 0.05 for trend in found]) <= 0.05 + 3 * 0.022
    rising = [increasing_trend(np.arange(5) + rng.normal(size=(12, 5))) for _ in range(100)]
    assert np.mean([trend.rest_p <= 0.05 for trend in rising]) > 0.9


def test_trend_needs_three_conditions() -> None:
    with pytest.raises(ValueError, match="3 conditions"):
        increasing_trend(np.zeros((5, 2)))


# ------------------------------------------------------------------------------------------------ verdicts

UP = 1.0 + np.arange(10) / 10
NOISE = np.array([1.0, -1.1, 0.9, -0.8, 1.2, -1.3, 0.7, -0.6, 1.4, -1.5])


@pytest.mark.parametrize(
    ("differences", "predicted", "margin", "verdict"),
    [
        (UP, "positive", None, "supported"),
        (-UP, "positive", None, "refuted"),
        (-UP, "negative", None, "supported"),
        (NOISE, "positive", None, "inconclusive"),
        (NOISE / 100, "positive", 0.05, "equivalent"),
        (NOISE, "positive", 0.05, "inconclusive"),
        (NOISE / 100, "non_inferior", 0.05, "supported"),
        (UP, "non_inferior", 0.05, "supported"),
        (-UP / 100, "non_inferior", 0.05, "equivalent"),  # within the margin, but worse with certainty
        (-UP, "non_inferior", 0.05, "refuted"),
        (NOISE, "non_inferior", 0.05, "inconclusive"),
        (NOISE / 100, "equivalent", 0.05, "supported"),
        (UP, "equivalent", 0.05, "refuted"),
        (-UP, "equivalent", 0.05, "refuted"),
        (NOISE, "equivalent", 0.05, "inconclusive"),
    ],
)
def test_verdict_follows_from_prediction_and_data(
    differences: np.ndarray, predicted: str, margin: float | None, verdict: str
) -> None:
    judgement = judge_effect(differences, predicted, margin=margin)  # type: ignore[arg-type]
    assert judgement.verdict == verdict
    assert judgement.n == 10
    assert judgement.p is not None


def test_five_seeds_are_reported_as_too_few() -> None:
    judgement = judge_effect([1.0, 1.1, 1.2, 1.3, 1.4], "positive")
    assert judgement.verdict == "inconclusive"
    assert judgement.p is judgement.ci_low is judgement.ci_high is None
    assert judgement.reason == "too few seeds: 5 cannot reach 0.05, 6 can"


def test_a_margin_must_be_given_where_the_prediction_needs_one() -> None:
    with pytest.raises(ValueError, match="margin"):
        judge_effect(UP, "equivalent")
