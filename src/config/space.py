"""A space of settings: Hydra's grammar of sweeps as Optuna's distributions, and points with few digits.

``interval(a,b)`` is a number between a and b, ``int(interval(a,b))`` and ``range(a,b)`` whole ones (b of a range is
left out), ``tag(log, ...)`` counts in decades, and ``a,b,c`` is one of its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from src.axes import number
from src.config.composing import typed_value
from src.errors import ConfigError, did_you_mean

Space = Mapping[str, BaseDistribution]
"""Key of the configuration -> what it may be."""
Point = Mapping[str, Any]
"""One value for each key of a space."""

PLACES = 5e-4
"""Of an interval (of the value itself on a logarithmic scale): finer differences of a sampled number are rounded
away."""


def distribution_of(key: str, override: Override) -> BaseDistribution:
    """The values that an override lists or spans. Raises ConfigError."""
    text, sweep = typed_value(override), override.value()
    tags: set[str] = getattr(sweep, "tags", set())
    for tag in tags - {"log"}:
        raise ConfigError(key, text, f"unknown tag {tag}; {did_you_mean(tag, ['log'])}")
    if isinstance(sweep, IntervalSweep):
        return _interval(key, text, sweep.start, sweep.end, log=bool(tags))
    if isinstance(sweep, RangeSweep):
        return _range(key, text, sweep, log=bool(tags))
    if tags:
        raise ConfigError(key, text, "a list of values has no scale; tag(log, ...) is for interval and range")
    texts = list(dict.fromkeys(override.sweep_string_iterator()))
    if not texts:
        raise ConfigError(key, text, "matches nothing")
    numbers = [number(choice) for choice in texts]
    plain = len(set(numbers)) == len(texts) and not any(isinstance(choice, str) for choice in numbers)
    return CategoricalDistribution(numbers if plain else texts)


def _interval(key: str, text: str, low: Any, high: Any, *, log: bool) -> BaseDistribution:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(key, text, "must have finite ends")
    if not low < high:
        raise ConfigError(key, text, "is empty; write interval(low,high) with low < high")
    if log and low <= 0:
        raise ConfigError(key, text, "a logarithmic scale starts above 0; raise its lower end")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _range(key: str, text: str, sweep: RangeSweep, *, log: bool) -> BaseDistribution:
    assert sweep.step is not None
    steps = sweep.range()
    values = [steps[0], steps[-1]] if isinstance(steps, range) and steps else list(steps)
    if not values:
        raise ConfigError(key, text, "is empty; write range(low,high) with low < high")
    low, high, step = min(values), max(values), abs(sweep.step)
    if isinstance(steps, range):
        if log and (low < 1 or step != 1):
            raise ConfigError(key, text, "on a logarithmic scale a range starts at 1 or above, with step 1")
        return IntDistribution(low, high, log=log, step=int(step))
    if log:
        raise ConfigError(key, text, "a logarithmic scale has no steps; write tag(log,interval(low,high))")
    return FloatDistribution(low, high, step=step)


def ends_of(distribution: BaseDistribution) -> tuple[Any, ...]:
    """The lowest and the highest value, or all choices."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return tuple(dict.fromkeys((distribution.low, distribution.high)))


def rounded(point: Point, space: Space) -> dict[str, Any]:
    """The point with the fewest digits that stay within `PLACES` of it, so that it can be read and typed again."""
    return {key: _shortest(value, space[key]) for key, value in point.items()}


def _shortest(value: Any, distribution: BaseDistribution) -> Any:
    if not isinstance(distribution, FloatDistribution):
        return value
    if distribution.step is not None:
        near = 1e-6 * distribution.step  # the step's own value, without the noise of its arithmetic
    else:
        near = PLACES * (abs(value) if distribution.log else distribution.high - distribution.low)
    found = next(short for digits in range(1, 18) if abs((short := float(f"{value:.{digits}g}")) - value) <= near)
    return min(max(found, distribution.low), distribution.high)


def distribution_in_words(distribution: BaseDistribution) -> str:
    """``0.001 to 1, log``; ``16 to 128, whole``; ``one of mlp, cnn``."""
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(str, distribution.choices))}"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    words = [f"{distribution.low} to {distribution.high}"]
    words += ["whole"] if isinstance(distribution, IntDistribution) else []
    words += ["log"] if distribution.log else []
    words += [f"in steps of {distribution.step}"] if distribution.step not in (None, 1) else []
    return ", ".join(words)
