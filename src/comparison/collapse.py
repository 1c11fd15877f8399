"""Collapsed runs: their training failed, so the mean of their regime says little about the runs that trained.

A run is collapsed if its loss diverged, if it predicts one class for every test sample, if it learned none of its data
sets (the training loss on each is not below that of the best constant prediction), or if it is a low outlier of its
regime: more than `OUTLIER_SPREADS` robust standard deviations and `OUTLIER_SHARE` of the median below the median of its
cell's runs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.comparison.statistics import seeds_needed, sign_flip_p
from src.comparison.units import p_equals, unit_of

CONFIDENCE = 0.95
"""Of the upper bound on the share of runs that collapse."""
OUTLIER_SPREADS, OUTLIER_SHARE, FEWEST_RUNS = 6.0, 0.25, 6
"""Low outliers: at most 1 % of cells of 12 runs have one by chance, unless their values have heavy tails
(`benchmarks.collapse`). Fewer runs have no reliable spread."""
OUTLIER = "it is far below the other runs of its regime"


def low_outliers(values: ArrayLike) -> NDArray[np.bool_]:
    """Which values [n] of one regime in one cell, larger ones being better, are low outliers."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < FEWEST_RUNS:
        return np.zeros(len(values), bool)
    median = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - median))  # of normal values: their standard deviation
    return np.asarray(median - values > max(OUTLIER_SPREADS * spread, OUTLIER_SHARE * abs(median)))


def collapse_of(result: Mapping[str, Any], diverged: bool, constant: Mapping[str, float] | None = None) -> str:
    """How a run collapsed, judged by itself, or "": the first rule that holds of diverged, one class, constant
    prediction.

    A network whose last stage had samples of one class only may rightly predict that class alone, and no loss is below
    that of the shares of a single class. `constant`: the loss of the best constant prediction for each data set,
    ``d1``; without it, as in older records, the cross-entropy of the class shares.
    """
    if diverged:
        return "its loss is not finite"
    metrics, counts = result["metrics"], result.get("class_counts") or []
    parts = [stage.get("parts", ()) for stage in result["stages"]]
    if not any(parts):
        return ""
    last = [any(counts[part][k] for part in parts[-1]) for k in range(len(counts[0]))] if counts else []
    recalls = [value for k in range(len(last)) if (value := metrics.get(f"test/union/recall/{k}")) is not None]
    if len(recalls) > 1 and sum(last) > 1 and sum(value > 0 for value in recalls) == 1:
        return "it predicts one class for all samples"
    references = constant or {f"d{part + 1}": _entropy(own) for part, own in enumerate(counts)}
    names = sorted({f"d{part + 1}" for stage in parts for part in stage} & references.keys())
    known = [(loss, references[name]) for name in names if (loss := metrics.get(f"train/{name}/loss")) is not None]
    if known and all(loss >= reference * (1 - 1e-9) > 0 for loss, reference in known):
        return "its training loss is not below that of a constant prediction"
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
    text += f"of {len(differences)} seed{'s' * (len(differences) > 1)} that trained in both, "
    text += f"{a} - {b} = {mean} {unit.of_differences}".rstrip()
    return f"{text}, median {median}{_tested(np.sign(differences))}"


def _tested(signs: Any) -> str:
    """The p-value of the exact sign test, if there are enough seeds for one."""
    if len(signs) < seeds_needed(1):
        return " (too few seeds to test)"
    return f" (sign test, {p_equals(float(sign_flip_p(signs)))})"


@dataclass(frozen=True, kw_only=True, slots=True)
class UnseenCollapses:
    """How many runs of a regime may collapse, though a cell shows none.

    A cell of 12 seeds shows none of its collapses in 28 % of cases if one run in ten collapses, and nothing in its
    values tells the lead of the others from a real one. The other cells may.
    """

    n_runs: int
    n_collapsed: int
    share: float
    """The share that may collapse, at 95 % (Clopper and Pearson 1934)."""
    cost: float
    """What this may cost the regime's mean."""


def unseen_collapses(trained: Sequence[float], collapsed: Sequence[float], n_collapsed: int) -> UnseenCollapses:
    """The collapses to expect of a regime, from the metric of its runs over all cells.

    A collapsed run without a value counts as 0, and so do those to expect if none is known.
    """
    share = cost = 0.0
    if trained and n_collapsed:
        from scipy.stats import beta

        share = float(beta.ppf(CONFIDENCE, n_collapsed + 1, len(trained)))
    elif trained:
        share = 1 - (1 - CONFIDENCE) ** (1 / len(trained))
    if trained:
        cost = share * abs(float(np.mean(trained)) - sum(collapsed) / max(1, n_collapsed))
    return UnseenCollapses(n_runs=len(trained) + n_collapsed, n_collapsed=n_collapsed, share=share, cost=cost)
