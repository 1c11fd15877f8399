"""A search: cells at points of a space, each chosen by the values of the earlier ones.

A search is a file ``searches/<id>/search.json``, from which every worker builds the same cells, and an Optuna study of
its own (`src.sweep.search.trials`). The id is a digest of the space, the objective, regimes, seeds, all fixed settings,
the sampler with its seed, and the pruner: if one of them changes, it is another search.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from omegaconf import OmegaConf
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from src.config import Config, Objective, SearchConfig, parse
from src.config.composing import key_of, set_value
from src.config.plugins import require_trusted
from src.config.space import Point, Space, ends_of, rounded
from src.errors import ConfigError
from src.io import digest, read_json, write_atomically
from src.sweep.engine import Engine
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell, in_cell
from src.sweep.grid.plan import SweepPlan, plan_sweep
from src.sweep.search.boundary import Floats, Proposal, check_axes, next_visit

ENOUGH = "enough"
"""The file with the number of points after which no further one is needed."""

MAX_CORNERS = 64


@dataclass(frozen=True)
class Search:
    """A search. `bases`: for each choice of the groups in the space (``arch=mlp``, as a tuple of overrides) the
    composed mapping of conf/config.yaml, in which ``${...}`` may be unresolved."""

    id: str
    config: SearchConfig
    objective: Objective
    space: Space
    bases: Mapping[tuple[str, ...], Mapping[str, Any]]

    @property
    def goal_in_words(self) -> str:
        """``maximize sequential/val/union/accuracy``."""
        return f"{self.objective.direction.replace('_absolute', ' the absolute')} {self.objective.text}"

    @property
    def strategy(self) -> Strategy:
        """How the points are chosen."""
        return STRATEGIES[self.config.name]

    def cell(self, point: Point, n_seeds: int | None = None) -> Cell:
        """The cell at a point of the space, with its first seeds only if `n_seeds` is given.

        Raises ConfigError where it contradicts itself.
        """
        cell = cell_at(self.bases, point)
        return replace(cell, config=replace(cell.config, seeds=cell.config.seeds[:n_seeds]))

    def plan(self, point: Point, engine: Engine, n_seeds: int | None = None) -> SweepPlan:
        """The cell at a point with its missing runs. Raises ConfigError where it cannot be run."""
        return plan_sweep([self.cell(point, n_seeds)], engine)

    def propose(self, trials: Sequence[FrozenTrial]) -> Proposal | None:
        """The next point after all earlier `trials`: a function of these and the settings, in any process."""
        return self.strategy.propose(self, trials)

    @property
    def n_seeds(self) -> int:
        """Number of seeds of a cell."""
        return len(self._corners[0].seeds)

    def limit(self, folder: SweepFolder) -> int:
        """Number of points in all: the requested number, or those that answered the question."""
        path = folder.search(self.id) / ENOUGH
        return min(self.config.n_trials, int(path.read_text()) if path.exists() else self.config.n_trials)

    @functools.cached_property
    def _corners(self) -> list[Config]:
        """The cells at the corners of the space that are valid."""
        found = []
        for point in corners(self.space):
            with contextlib.suppress(ConfigError):
                found.append(self.cell(point).config)
        return found

    def costs(self, where: Floats) -> Floats:
        """Relative cost of a seed at places of the unit cube: passes over samples, interpolated between the corners."""
        work = np.array([math.log(max(1, sum(c.split.dataset_sizes()) * c.stopping.amount)) for c in self._corners])
        if len(work) != 2 ** len(self.space):  # some are invalid
            return np.ones(len(where))
        ends = np.array(list(product((0, 1), repeat=len(self.space))))
        weights = np.prod(np.where(ends[None] == 1, where[:, None], 1 - where[:, None]), axis=2)
        return np.asarray(np.exp(weights @ (work - work.max())))

    def save(self, folder: SweepFolder) -> Path:
        """Writes search.json for the workers; returns its folder."""
        content = {
            "id": self.id,
            "search": asdict(self.config),
            "objective": asdict(self.objective),
            "space": {key: distribution_to_json(kind) for key, kind in self.space.items()},
            "bases": [[list(choices), mapping] for choices, mapping in self.bases.items()],
        }
        path = folder.search(self.id) / "search.json"
        write_atomically(path, json.dumps(content, indent=1) + "\n")
        return path.parent


def load_search(folder: SweepFolder, search_id: str) -> Search:
    """Reads a search that another process saved. Raises ConfigError where there is none."""
    path = folder.search(search_id) / "search.json"
    if not path.exists():
        raise ConfigError("search", search_id, f"{folder.root} holds no such search: {', '.join(folder.searches)}")
    try:
        content = read_json(path)
        for _, mapping in content["bases"]:
            require_trusted(mapping.get("plugins"), folder.multirun)
        objective = {**content["objective"], "of": tuple(content["objective"]["of"])}
        return Search(
            id=content["id"],
            config=SearchConfig(**content["search"]),
            objective=Objective(**objective),
            space={key: json_to_distribution(text) for key, text in content["space"].items()},
            bases={  # the folder may have moved
                tuple(choices): {**mapping, "multirun": str(folder.multirun)} for choices, mapping in content["bases"]
            },
        )
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        fix = "repeat the search's command, which writes it again"
        raise ConfigError("search", search_id, f"{path} is damaged ({error}); {fix}") from error


def corners(space: Space) -> Iterator[dict[str, Any]]:
    """Points at the ends of every axis, at most `MAX_CORNERS`: all of them where there are so few."""
    ends = [ends_of(distribution) for distribution in space.values()]
    for values in islice(product(*ends), MAX_CORNERS):
        yield dict(zip(space, values, strict=True))


def cell_at(bases: Mapping[tuple[str, ...], Mapping[str, Any]], point: Point) -> Cell:
    overrides = tuple(f"{key}={value}" for key, value in point.items())  # as a command line has them
    group_keys = {key_of(choice) for choices in bases for choice in choices}
    choices = tuple(override for override in overrides if key_of(override) in group_keys)
    mapping = copy.deepcopy(dict(bases[choices]))
    try:
        for override in overrides:
            if override not in choices:
                set_value(mapping, override)
        return Cell(parse(resolved(mapping)), overrides)
    except ConfigError as error:
        raise in_cell(error, overrides) from error


def resolved(mapping: Mapping[str, Any]) -> dict[str, Any]:
    if "${" not in json.dumps(mapping):
        return dict(mapping)
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(dict(mapping)), resolve=True))


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
    def propose(self, search: Search, trials: Sequence[FrozenTrial]) -> Proposal | None:
        """The next point after all earlier trials: a function of these and the settings. None: no further one is
        needed.
        """


class OptunaStrategy(Strategy):
    """Points by a sampler with its defaults; it avoids the points of running trials."""

    def __init__(self, sampler: type[BaseSampler]) -> None:
        self._sampler = sampler

    def propose(self, search: Search, trials: Sequence[FrozenTrial]) -> Proposal:
        seed = int(digest([search.config.seed, len(trials)])[:8], 16)
        sampler = self._sampler(seed=seed)  # type: ignore[call-arg]
        study = optuna.create_study(direction=search.objective.goal, sampler=sampler)
        study.add_trials(trials)
        return Proposal(rounded(study.ask(dict(search.space)).params, search.space))


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

    def propose(self, search: Search, trials: Sequence[FrozenTrial]) -> Proposal | None:
        return next_visit(trials, search.space, search.costs, search.config, most=search.n_seeds)


STRATEGIES: Mapping[str, Strategy] = {
    "tpe": OptunaStrategy(optuna.samplers.TPESampler),
    "gp": OptunaStrategy(optuna.samplers.GPSampler),
    "random": OptunaStrategy(optuna.samplers.RandomSampler),
    "boundary": BoundaryStrategy(),
}
