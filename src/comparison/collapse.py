"""Collapsed runs: their training failed, so the mean of their regime says little about the runs that trained.

A run is collapsed if its loss diverged, if it predicts one class for every test sample, or if it learned none of its data
sets: the training loss on each is not below that of predicting the data set's class shares. All of it is in result.json.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from src.comparison.statistics import seeds_needed, sign_flip_p
from src.comparison.units import p_equals, unit_of

CONFIDENCE = 0.95
"""Of the upper bound on the share of runs that collapse."""


def collapse_of(result: Mapping[str, Any], diverged: bool) -> str:
    """How a run collapsed, or "". A regression can only diverge, and with loss=mse the class shares are no reference.

    A network whose last stage had samples of one class only may rightly predict that class alone, and no loss is below that
    of the shares of a single class.
    """
    if diverged:
        return "its loss is not finite"
    metrics, counts = result["metrics"], result.get("class_counts") or []
    parts = [[part for part in stage.get("parts", ()) if part < len(counts)] for stage in result["stages"]]
    if not any(parts):
        return ""
    last = [any(counts[part][k] for part in parts[-1]) for k in range(len(counts[0]))]
    recalls = [value for k in range(len(last)) if (value := metrics.get(f"test/union/recall/{k}")) is not None]
    if len(recalls) > 1 and sum(last) > 1 and sum(value > 0 for value in recalls) == 1:
        return "it predicts one class for all samples"
    trained = sorted({part for stage in parts for part in stage})
    losses = [(metrics.get(f"train/d{part + 1}/loss"), _entropy(counts[part])) for part in trained]
    known = [(loss, prior) for loss, prior in losses if loss is not None]
    if known and all(loss >= prior * (1 - 1e-9) > 0 for loss, prior in known):
        return "its training loss is not below that of the class shares"
    return ""


def _entropy(counts: Sequence[int]) -> float:
    """Cross-entropy of predicting the class shares, in nats."""
    total = sum(counts)
    return sum(n / total * math.log(total / n) for n in counts if n)


def two_statements(
    sides: Mapping[str, tuple[Collection[int], Collection[int]]], differences: Sequence[float], metric: str
) -> str:
    """What is known of two regimes of which one collapsed: the shares that collapse, and the difference of the others.

    Both tests are exact without any assumption of symmetry: sign tests over seeds. `sides`: for both regimes, the seeds
    with a run and those whose run collapsed; `differences`: of the seeds that trained in both.
    """
    (a, (seeds_a, collapsed_a)), (b, (seeds_b, collapsed_b)) = sides.items()
    shared = sorted(set(seeds_a) & set(seeds_b))
    signs = [(seed in collapsed_a) - (seed in collapsed_b) for seed in shared]
    text = f"{a} collapsed in {len(collapsed_a)} of {len(seeds_a)} runs, {b} in {len(collapsed_b)} of {len(seeds_b)}"
    text += f"{_tested(signs)}; "
    if not differences:
        return f"{text}no seed trained in both"
    unit = unit_of(metric)
    mean, median = (unit.difference(float(of(differences))) for of in (np.mean, np.median))
    text += f"of {len(differences)} seeds that trained in both, {a} - {b} = {mean} {unit.of_differences}".rstrip()
    return f"{text}, median {median}{_tested(np.sign(differences))}"


def _tested(signs: Any) -> str:
    """The p-value of the exact sign test, if there are enough seeds for one."""
    return (
        f" (sign test, {p_equals(float(sign_flip_p(signs)))})"
        if len(signs) >= seeds_needed(1)
        else " (too few seeds to test)"
    )


def unseen_cost(trained: Sequence[float], collapsed: Sequence[float], n_collapsed: int) -> tuple[float, float]:
    """(share, cost): the share of a regime's runs that may collapse, at 95 %, and what this may cost its mean.

    `trained`, `collapsed`: the metric of its runs over all cells; a collapsed run without a value counts as 0. A cell of 12
    seeds shows none of its collapses in 28 % of cases if one run in ten collapses, so the other cells must tell.
    """
    if not n_collapsed or not trained:
        return 0.0, 0.0
    from scipy.stats import beta

    share = float(beta.ppf(CONFIDENCE, n_collapsed + 1, len(trained)))
    low = sum(collapsed) / n_collapsed
    return share, share * abs(float(np.mean(trained)) - low)
