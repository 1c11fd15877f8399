"""A cell's axes as Optuna parameters that stay sound while the grid grows.

Optuna fixes the kind of a parameter within a study, and the choices of a categorical one. So numbers are floats, whose
range may widen; a text that is not among the recorded choices goes to a further parameter of its own, ``arch#2``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from src.data.sources.catalog import SOURCES
from src.models.catalog import ARCHITECTURES

Axes = Mapping[str, str | float | int]


class Distributions:
    """The parameters of a study, by name; `prepare` adds those that further cells need."""

    def __init__(self, recorded: Mapping[str, BaseDistribution]) -> None:
        self._known = dict(recorded)

    def prepare(self, cells: Iterable[Axes]) -> None:
        """Makes room for the axes of `cells`, so that all of them share one range or one set of choices."""
        values: dict[str, list[float | str]] = {}
        for axes in cells:
            for axis, value in axes.items():
                values.setdefault(axis, []).append(_as_parameter(value))
        for axis, found in values.items():
            numbers = [value for value in found if isinstance(value, float)]
            words = {value for value in found if isinstance(value, str)}
            if numbers:
                self._make_room_for_numbers(axis, min(numbers), max(numbers))
            if words:
                self._make_room_for_words(axis, words)

    def of(self, axes: Axes) -> dict[str, tuple[float | str, BaseDistribution]]:
        """Name, value and distribution of each parameter of a prepared cell."""
        found = {}
        for axis, given in axes.items():
            value = _as_parameter(given)
            name = next(name for name in _generations(axis) if _holds(self._known[name], value))
            found[name] = (value, self._known[name])
        return found

    def _make_room_for_numbers(self, axis: str, low: float, high: float) -> None:
        for name in _generations(axis):
            known = self._known.get(name)
            if known is None:
                self._known[name] = FloatDistribution(low, high)
                return
            if isinstance(known, FloatDistribution):
                if low < known.low or high > known.high:
                    self._known[name] = FloatDistribution(min(low, known.low), max(high, known.high))
                return

    def _make_room_for_words(self, axis: str, words: set[str]) -> None:
        possible = {"arch": set(ARCHITECTURES), "data": set(SOURCES)}.get(axis, set())
        for name in _generations(axis):
            known = self._known.get(name)
            if known is None:
                self._known[name] = CategoricalDistribution(sorted(words | possible))
                return
            words = {word for word in words if not _holds(known, word)}
            if not words:
                return


def _generations(axis: str) -> Iterable[str]:
    """``arch``, ``arch#2``, ``arch#3``, ..."""
    return itertools.chain([axis], (f"{axis}#{k}" for k in itertools.count(2)))


def _as_parameter(value: str | float | int) -> float | str:
    """Numbers as floats; what is not a finite number (``inf``: Dataset 1 is empty) as text."""
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return str(value)


def _holds(distribution: BaseDistribution, value: float | str) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return isinstance(value, str) and value in distribution.choices
    assert isinstance(distribution, FloatDistribution)
    return isinstance(value, float) and distribution.low <= value <= distribution.high
