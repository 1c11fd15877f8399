"""A cell's axes as parameters of an Optuna trial."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial

Axes = Mapping[str, str | float | int]


class Parameters:
    """The parameters of a grid's trials: the axes in which its cells differ.

    A study fixes the kind of a parameter and the choices of a categorical one. So numbers are floats, whose range may
    grow, and a value that does not fit what earlier trials recorded is left out (`axes` among the user attributes has
    it).
    """

    def __init__(self, cells: Sequence[Axes], recorded: Iterable[FrozenTrial] = ()) -> None:
        known: dict[str, BaseDistribution] = {}
        for trial in recorded:
            known |= trial.distributions
        self._distributions = dict(known)
        for axis in dict.fromkeys(axis for axes in cells for axis in axes):
            values = [axes[axis] for axes in cells if axis in axes]
            if len(set(values)) > 1 or axis in known or len(cells) == 1:
                self._distributions[axis] = _distribution(values, known.get(axis))

    def of(self, axes: Axes) -> dict[str, Any]:
        """Arguments `params` and `distributions` of `optuna.trial.create_trial` for one of the cells."""
        params: dict[str, Any] = {}
        for axis, distribution in self._distributions.items():
            if axis not in axes:
                continue
            if isinstance(distribution, CategoricalDistribution):
                params |= {axis: str(axes[axis])} if str(axes[axis]) in distribution.choices else {}
            elif _is_number(axes[axis]):
                params[axis] = float(axes[axis])
        return {"params": params, "distributions": {axis: self._distributions[axis] for axis in params}}


def _distribution(values: Sequence[str | float | int], known: BaseDistribution | None) -> BaseDistribution:
    if isinstance(known, CategoricalDistribution):
        return known
    numbers = [float(value) for value in values if _is_number(value)]
    if isinstance(known, FloatDistribution):
        return FloatDistribution(min([known.low, *numbers]), max([known.high, *numbers]))
    if len(numbers) == len(values):
        return FloatDistribution(min(numbers), max(numbers))
    return CategoricalDistribution(sorted({str(value) for value in values}))


def _is_number(value: str | float | int) -> bool:
    """Whether a parameter can hold it as a number; ``inf`` (Dataset 1 is empty) is a text."""
    return not isinstance(value, str) and math.isfinite(value)
