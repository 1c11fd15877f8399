"""The space of a search: the axes of its command line, its corners, and a point of it as overrides."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from optuna.distributions import BaseDistribution

from src.config.composing import typed_value
from src.config.space import Space, distribution_of, ends_of
from src.errors import ConfigError
from src.sweep.grid.line import CommandLine, is_run_key

MAX_CORNERS = 64


def space_of(line: CommandLine) -> dict[str, BaseDistribution]:
    """The space of a command line. Raises ConfigError for an axis that cannot be searched, or where there is none."""
    space = {}
    for key, override in line.sweeps.items():
        if is_run_key(key):
            if override.is_sweep_override():
                what = "a seed" if key == "seed" else "a regime"
                problem = f"{what} cannot be searched: every trial runs all `regimes` x `seeds`; list them there"
                raise ConfigError(key, typed_value(override), problem)
            continue
        space[key] = distribution_of(key, override)
    if not space:
        example = "'optimizer.lr=tag(log,interval(1e-3,1))'"
        name = line.first["search"]["name"]
        raise ConfigError("search", name, f"has nothing to choose; give an interval or several values, e.g. {example}")
    return space


def corners(space: Space) -> Iterator[dict[str, Any]]:
    """Points at the ends of every axis, at most `MAX_CORNERS`: all of them where there are so few."""
    ends = [ends_of(distribution) for distribution in space.values()]
    for values in itertools.islice(itertools.product(*ends), MAX_CORNERS):
        yield dict(zip(space, values, strict=True))
