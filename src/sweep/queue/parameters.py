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
    grow, and a value that does not fit what earlier trials recorded is left out (`axes` among the user attributes has it).
    """

    def __init__(self, cells: Sequence[Axes], recorded: Iterable[FrozenTrial] = ()) -> None:
        known: dict[str, BaseDistribution] = {}
        for trial in recorded:
            known |= trial.distributions
        columns: dict[str, list[str | float]] = {}
        for axes in cells:
            for axis, value in axes.items():
                columns.setdefault(axis, []).append(_parameter(value))
        self._distributions = {
            axis: _distribution(values, known.get(axis))
            for axis, values in columns.items()
            if len(set(values)) > 1 or axis in known or len(cells) == 1
        }

    def of(self, axes: Axes) -> dict[str, Any]:
        """Arguments `params` and `distributions` of `optuna.trial.create_trial` for one of the cells."""
        params = {
            axis: value if isinstance(distribution, FloatDistribution) else str(value)
            for axis, distribution in self._distributions.items()
            if axis in axes and _fits(value := _parameter(axes[axis]), distribution)
        }
        return {"params": params, "distributions": {axis: self._distributions[axis] for axis in params}}


def _distribution(values: Sequence[str | float], known: BaseDistribution | None) -> BaseDistribution:
    if isinstance(known, CategoricalDistribution):
        return known
    numbers = [value for value in values if isinstance(value, float)]
    if isinstance(known, FloatDistribution):
        return FloatDistribution(min([known.low, *numbers]), max([known.high, *numbers]))
    if len(numbers) == len(values):
        return FloatDistribution(min(numbers), max(numbers))
    return CategoricalDistribution(sorted({str(value) for value in values}))


def _parameter(value: str | float | int) -> str | float:
    """A number as a float; text, and what is not a finite number (``inf``: Dataset 1 is empty), as text."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else str(value)


def _fits(value: str | float, distribution: BaseDistribution) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return str(value) in distribution.choices
    return isinstance(value, float)
