"""How a search chooses its points: by a sampler of Optuna, or along the boundary between two regimes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from src.config import Objective, SearchConfig
from src.config.space import Point, Space, rounded
from src.errors import ConfigError
from src.io import digest
from src.sweep.search.boundary import Floats, check_axes, next_visit


@dataclass(frozen=True)
class Proposal:
    """The next point, with what its trial records from the start; ``n_seeds`` limits its seeds to the first ones."""

    point: Point
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Strategy(ABC):
    """How the points of a search are chosen."""

    finds_best = True
    """Whether the search is for the best value."""

    def identity(self, config: SearchConfig) -> list[Any]:
        """Settings of the search, other than the seed, that make it another one."""
        return [] if config.pruner == "none" else [config.pruner]

    def check(self, config: SearchConfig, objective: Objective, space: Space) -> None:
        """Raises ConfigError for a search that cannot be done."""

    @abstractmethod
    def propose(
        self,
        config: SearchConfig,
        objective: Objective,
        space: Space,
        trials: Sequence[FrozenTrial],
        n_seeds: int,
        costs: Callable[[Floats], Floats],
    ) -> Proposal | None:
        """The next point after all earlier trials: a function of these and the settings. None: no further one is
        needed.

        `n_seeds`: of a cell; `costs`: see `next_visit`.
        """


class OptunaStrategy(Strategy):
    """Points by a sampler with its defaults; it avoids the points of running trials."""

    def __init__(self, sampler: type[BaseSampler]) -> None:
        self._sampler = sampler

    def propose(
        self, config: SearchConfig, objective: Objective, space: Space, trials: Sequence[FrozenTrial], *_: object
    ) -> Proposal:
        seed = int(digest([config.seed, len(trials)])[:8], 16)
        study = optuna.create_study(direction=objective.goal, sampler=self._sampler(seed=seed))  # type: ignore[call-arg]
        study.add_trials(trials)
        return Proposal(rounded(study.ask(dict(space)).params, space))


class BoundaryStrategy(Strategy):
    """Cells and seeds where the sign of a difference is least certain for its cost; see `src.sweep.search.boundary`."""

    finds_best = False

    def identity(self, config: SearchConfig) -> list[Any]:
        return [config.step, config.certain]

    def check(self, config: SearchConfig, objective: Objective, space: Space) -> None:
        if len(objective.of) != 2:
            problem = "has no sign; a boundary lies between two regimes, A-B/val/..."
            raise ConfigError("objective", objective.text, problem)
        if config.pruner != "none":
            raise ConfigError("search.pruner", config.pruner, "has no effect on a boundary; take search.pruner=none")
        check_axes(space)

    def propose(
        self,
        config: SearchConfig,
        objective: Objective,
        space: Space,
        trials: Sequence[FrozenTrial],
        n_seeds: int,
        costs: Callable[[Floats], Floats],
    ) -> Proposal | None:
        del objective
        limits: dict[str, Any] = {"seed": config.seed, "step": config.step, "most": n_seeds, "certain": config.certain}
        found = next_visit(trials, space, costs, **limits)
        return None if found is None else Proposal(*found)


STRATEGIES: Mapping[str, Strategy] = {
    "tpe": OptunaStrategy(optuna.samplers.TPESampler),
    "gp": OptunaStrategy(optuna.samplers.GPSampler),
    "random": OptunaStrategy(optuna.samplers.RandomSampler),
    "boundary": BoundaryStrategy(),
}
