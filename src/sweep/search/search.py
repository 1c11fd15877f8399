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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, FloatDistribution, distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial

from src.config import Config, Objective, SearchConfig, parse, parse_objective
from src.config.composing import key_of, set_value, typed_value
from src.config.plugins import require_trusted
from src.config.search import SEARCH_KEYS, check_pruner
from src.config.seeding import AUTO
from src.config.space import Point, Space, distribution_of, ends_of
from src.errors import ConfigError
from src.io import MAX_OWN_NAME, digest, file_name, read_json, write_atomically
from src.sweep.engine import Engine
from src.sweep.folder import SweepFolder, searches_of
from src.sweep.grid.cells import Cell, in_cell, refuse_tuned_axes, with_runs
from src.sweep.grid.line import CommandLine, is_run_key
from src.sweep.grid.plan import SweepPlan, plan_sweep
from src.sweep.search.boundary import Floats
from src.sweep.search.strategy import STRATEGIES, Proposal, Strategy
from src.typed import build

if TYPE_CHECKING:  # loads torch, which `status` does without
    from src.cells.resolve import ResolvedCell

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
        cell = _cell(self.bases, point)
        return replace(cell, config=replace(cell.config, seeds=cell.config.seeds[:n_seeds]))

    def plan(self, point: Point, engine: Engine, n_seeds: int | None = None) -> SweepPlan:
        """The cell at a point with its missing runs. Raises ConfigError where it cannot be run."""
        return plan_sweep([self.cell(point, n_seeds)], engine)

    def propose(self, trials: Sequence[FrozenTrial]) -> Proposal | None:
        """The next point after all earlier `trials`: a function of these and the settings, in any process."""
        n_seeds = len(self._corners[0].seeds)
        return self.strategy.propose(self.config, self.objective, self.space, trials, n_seeds, self._costs)

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

    def _costs(self, where: Floats) -> Floats:
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
        raise ConfigError("search", search_id, f"{folder.root} holds no such search: {', '.join(searches_of(folder))}")
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


def make_search(line: CommandLine, engine: Engine) -> tuple[Search, ResolvedCell, list[str]]:
    """The search of a command line, its first valid corner, and the error of each invalid corner.

    ``${...}`` is unresolved in the command line. Raises ConfigError if the space, the objective or every corner is
    invalid.
    """
    space = space_of(line)
    raw = {choices: with_runs(line, choices) for choices in product(*(list(line.choices(key)) for key in line.groups))}
    settings = _resolved(next(iter(raw.values())))
    search = build(SearchConfig, settings["search"], "search")
    if settings["seeds"] == AUTO:
        raise ConfigError("seeds", AUTO, f"is for a grid; search={search.name} needs a number of seeds, e.g. seeds=12")
    sweep = settings["sweep"] or _name([_resolved(mapping) for mapping in raw.values()])
    bases = {
        choices: {key: value for key, value in mapping.items() if key not in SEARCH_KEYS} | {"sweep": sweep}
        for choices, mapping in raw.items()
    }
    plans, refused = [], []
    for point in corners(space):
        try:
            plans.append(plan_sweep([_cell(bases, point)], engine))
        except ConfigError as error:
            refused.append(error)
    if not plans:
        raise _all_invalid(refused[0], space)
    config = plans[0].config
    refuse_tuned_axes(line, config)
    bases = {choices: {**mapping, "storage": config.storage} for choices, mapping in bases.items()}
    objective = parse_objective(settings, config)
    strategy = STRATEGIES[search.name]
    strategy.check(search, objective, space)
    for plan in plans:
        check_pruner(search, objective, plan.config)
    content = {
        "sampler": [search.name, search.seed, *strategy.identity(search)],
        "objective": asdict(objective),
        "space": {key: distribution_to_json(kind) for key, kind in space.items()},
        "corners": [cell_hash for plan in plans for cell_hash in plan.cells],
        "regimes": [regime.label for regime in config.regimes],
        "seeds": config.seeds,
    }
    search_id = f"{search.name}-{digest(content)[:8]}"
    return (
        Search(search_id, search, objective, space, bases),
        next(iter(plans[0].resolved.values())),
        [str(error) for error in refused],
    )


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
    for values in islice(product(*ends), MAX_CORNERS):
        yield dict(zip(space, values, strict=True))


def _cell(bases: Mapping[tuple[str, ...], Mapping[str, Any]], point: Point) -> Cell:
    overrides = tuple(f"{key}={value}" for key, value in point.items())  # as a command line has them
    group_keys = {key_of(choice) for choices in bases for choice in choices}
    choices = tuple(override for override in overrides if key_of(override) in group_keys)
    mapping = copy.deepcopy(dict(bases[choices]))
    try:
        for override in overrides:
            if override not in choices:
                set_value(mapping, override)
        return Cell(parse(_resolved(mapping)), overrides)
    except ConfigError as error:
        raise in_cell(error, overrides) from error


def _resolved(mapping: Mapping[str, Any]) -> dict[str, Any]:
    if "${" not in json.dumps(mapping):
        return dict(mapping)
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(dict(mapping)), resolve=True))


def _name(mappings: Sequence[Mapping[str, Any]]) -> str:
    """The default name of the sweep: all data sets and architectures."""
    data, arch = (".".join(dict.fromkeys(str(m[group]["name"]) for m in mappings)) for group in ("data", "arch"))
    return file_name(f"{data}-{arch}", MAX_OWN_NAME)


def _all_invalid(error: ConfigError, space: Space) -> ConfigError:
    """The first corner's error, for a space whose corners are all invalid."""
    head, _, problem = str(error).partition(": ")
    if "a whole number" in problem and isinstance(space.get(error.key), FloatDistribution):
        problem += "; write int(interval(low,high)) or range(low,high)"
    return ConfigError(
        error.key, head.removeprefix(f"{error.key}="), f"{problem} (every corner of the space is refused)"
    )
