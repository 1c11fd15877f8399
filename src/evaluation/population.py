"""Exact risks of a linear model on distributions that are known: no test set, no noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from src.data.stream import Population
from src.models.architecture import Architecture

HEAD, BIAS = "head.weight", "head.bias"


def excess_risk(weights: NDArray[np.float64], bias: float, population: Population) -> float:
    """E(f(x) - target . x)^2 = |root' (weights - target)|^2 + bias^2: the cost of noiseless targets. `weights` [d]."""
    off = population.root.T @ (weights - population.target)
    return float(off @ off + bias**2)


def population_risks(
    arch: Architecture, state: Mapping[str, Tensor], populations: Sequence[Population] | None, sizes: Sequence[int]
) -> dict[str, float | None]:
    """``d1/risk``, ``d1/excess_risk``, ..., ``union/...``: the expected squared error, and what of it is not noise.

    `sizes`: training samples of each data set, by which the union mixes them; an empty one has None. Nothing where the
    distribution is not known or the model is not linear.
    """
    if populations is None or not arch.is_linear:
        return {}
    head = state[HEAD].double().cpu().numpy()
    assert head.shape[0] == 1, "one target column"
    bias = float(state[BIAS]) if BIAS in state else 0.0
    risks: dict[str, float | None] = {}
    union = np.zeros(2)
    for part, (population, size) in enumerate(zip(populations, sizes, strict=True)):
        excess = excess_risk(head[0], bias, population)
        both = np.array([excess + population.noise**2, excess])
        union += both * size / sum(sizes)
        risks[f"d{part + 1}/risk"], risks[f"d{part + 1}/excess_risk"] = both.tolist() if size else (None, None)
    risks["union/risk"], risks["union/excess_risk"] = union.tolist()
    return risks
