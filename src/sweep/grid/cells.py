"""A sweep's command line, and the cells that it describes: typed, checked, each recipe once.

An axis over `regime`, a regime's knob or `seed` is a run axis: it extends the regimes or seeds of every cell. Any other
axis is a cell axis, and the grid is their product in the order of the command line, the first slowest. Nothing runs
before the whole grid is composed and parsed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from src.axes import AxisValue, axis_of, number
from src.config import Config, parse
from src.config.composing import Composer, assignment, key_of, set_value, typed_value
from src.config.parse import AUTO, Seeding, parse_seeding
from src.errors import ConfigError
from src.progress import tracked

OBJECTIVE_KEYS = ("search", "objective", "objective_direction")
SWEEP_KEYS = (
    "sweep",
    "multirun",
    "storage",
    "n_workers",
    "dry_run",
    "plugins",
    "tracking",
    "launcher",
    "seeding",
    "notify",
    *OBJECTIVE_KEYS,
)
"""Settings of the whole sweep, which cannot be axes."""


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep: its config, and the overrides in which it differs from the sweep's other cells."""

    config: Config
    overrides: tuple[str, ...] = ()

    @property
    def axes(self) -> dict[str, AxisValue]:
        """The value on every axis, then those of further settings that are swept."""
        named = dict(self.config.axes())
        for override in self.overrides:
            key, _, text = override.lstrip("+").partition("=")
            if axis_of(key) is None:
                named[key] = number(text)
        return named

    @property
    def n_runs(self) -> int:
        """Number of runs: regimes x seeds."""
        return len(self.config.regimes) * len(self.config.seeds)


class CommandLine:
    """The overrides `arguments` of a sweep. Raises ConfigError, and what `compose` raises.

    `compose` gets the swept group choices (``arch=mlp,cnn``) alone, and should cache; other values are set on its
    result, which is a hundred times faster.

    Attributes:
        sweeps: The overrides that are axes. `regime` and `seed` are axes even with one value: they name compared runs.
        fixed: The overrides that all cells share.
        groups: The axes over a config group.
        has_interpolation: Whether a value interpolates another one, so that both must be composed together or resolved
            later.
    """

    def __init__(
        self, arguments: Sequence[str], compose: Composer, loader: ConfigLoader, *, resolved: bool = True
    ) -> None:
        self.sweeps: dict[str, Override] = {}
        self.fixed: list[str] = []
        self._compose = compose
        self._notify: object = None
        for override in OverridesParser.create(loader).parse_overrides(list(arguments)):
            self._add(override)
        self.groups = [
            key for key in self.sweeps if "." not in key and loader.get_group_options(key.lstrip("+").partition("@")[0])
        ]
        self.has_interpolation = any("${" in argument for argument in arguments)
        self._composed_keys = list(self.sweeps) if self.has_interpolation and resolved else self.groups

    @functools.cached_property
    def axes(self) -> dict[str, list[str]]:
        """Every axis as ``key -> [key=value, ...]``, each value once. Raises ConfigError for an interval."""
        for key, override in self.sweeps.items():
            if override.is_interval_sweep():
                problem = "an interval needs a search, e.g. search=tpe; a grid lists its values"
                raise ConfigError(key, typed_value(override), problem)
        return {key: list(dict.fromkeys(self.choices(key))) for key in self.sweeps}

    @functools.cached_property
    def run_axes(self) -> dict[str, list[str]]:
        """The axes over `regime` (or its knobs) and `seed`."""
        return {key: list(dict.fromkeys(self.choices(key))) for key in self.sweeps if is_run_key(key)}

    def choices(self, key: str) -> Iterator[str]:
        """The values of an axis that lists them, as ``key=value``."""
        override = self.sweeps[key]
        if not override.is_sweep_override():
            return iter([f"{key}={typed_value(override)}"])
        return (f"{key}={value}" for value in override.sweep_string_iterator())

    @functools.cached_property
    def first(self) -> Mapping[str, Any]:
        """The composed mapping of the first cell, which holds the settings of the whole sweep."""
        listed = [key for key in self._composed_keys if not self.sweeps[key].is_interval_sweep()]
        return self.mapping([next(self.choices(key)) for key in listed])

    @property
    def notify(self) -> str | None:
        """The user's command that runs at the first failure and at the end."""
        command = self._notify if self.first else None
        if command is not None and not isinstance(command, str):
            raise ConfigError(
                "notify", command, "must be a command in quotes, e.g. notify='mail -s done me@example.org'"
            )
        return command

    def mapping(self, choices: Sequence[str]) -> dict[str, Any]:
        """The composed mapping under `choices`, ``key=value`` each."""
        to_compose = [choice for choice in choices if key_of(choice) in self._composed_keys]
        mapping = dict(self._compose([*self.fixed, *to_compose]))  # shares the groups that `set_value` leaves alone
        self._notify = mapping.pop("notify", None)  # in no file of a sweep
        for choice in choices:
            if key_of(choice) not in self._composed_keys:
                set_value(mapping, choice)
        return mapping

    def _add(self, override: Override) -> None:
        key = override.get_key_element()
        if override.is_sweep_override() and key.partition(".")[0] in SWEEP_KEYS:
            raise ConfigError(key, typed_value(override), "cannot be an axis; it is one for the whole sweep")
        if override.is_sweep_override() or is_run_key(key):
            self.sweeps[key] = override
        else:
            self.sweeps.pop(key, None)
            assert override.input_line is not None
            self.fixed.append(override.input_line)


def is_run_key(key: str) -> bool:
    """Whether an axis over the key is one of runs."""
    return key in ("regime", "seed") or key.startswith("regime.")


def expand(line: CommandLine) -> list[Cell]:
    """The cells of the command line. Raises ConfigError naming the cell, and what composing raises."""
    axes = line.axes
    cell_keys = [key for key in axes if not is_run_key(key)]
    cells: dict[str, Cell] = {}
    n = math.prod(len(axes[key]) for key in cell_keys)
    for choices in tracked(itertools.product(*(axes[key] for key in cell_keys)), "composed: cells", n):
        overrides = tuple(choice for choice, key in zip(choices, cell_keys, strict=True) if len(axes[key]) > 1)
        try:
            cell = Cell(parse(with_runs(line, choices)), overrides)
            refuse_tuned_axes(line, cell.config)
        except ConfigError as error:
            raise in_cell(error, overrides) from error
        # of one recipe and source; it includes paths, since the data is not read yet
        key = json.dumps([cell.config.recipe(), dataclasses.asdict(cell.config.data)], sort_keys=True, default=str)
        cells[key] = merged(cells[key], cell) if key in cells else cell
    return list(cells.values())


def seeding_of(line: CommandLine) -> Seeding | None:
    """The limits of a command with `seeds=auto`, None without. Raises ConfigError if only some of its cells have it."""
    for key in ("seeds", "seed"):
        values = [typed_value(line.sweeps[key])] if key in line.sweeps else []
        if values and (AUTO in values[0] or line.first["seeds"] == AUTO):
            raise ConfigError(
                key, values[0], "cannot be an axis next to seeds=auto, which chooses the seeds of all cells"
            )
    return parse_seeding(line.first)


def refuse_tuned_axes(line: CommandLine, config: Config) -> None:
    """Raises ConfigError for an axis over what is tuned."""
    for key, override in line.sweeps.items():
        if override.is_sweep_override() and key.removeprefix("regime.") in config.tune.keys:
            problem = "is tuned for each regime, so it cannot be an axis; give one value, or leave it out of tune.space"
            raise ConfigError(key, typed_value(override), problem)


def with_runs(line: CommandLine, choices: Sequence[str]) -> dict[str, Any]:
    """The composed mapping under `choices` of cell axes, with the regimes and seeds of the run axes."""
    mapping = line.mapping(choices)
    regime_axes = [values for key, values in line.run_axes.items() if key != "seed"]
    if regime_axes:
        _refuse_both("regimes", "regime", [*choices, *line.fixed])
        mapping["regimes"] = [line.mapping([*choices, *runs])["regime"] for runs in itertools.product(*regime_axes)]
    if "seed" in line.run_axes:
        _refuse_both("seeds", "seed", [*choices, *line.fixed])
        mapping["seeds"] = [assignment(choice)[1] for choice in line.run_axes["seed"]]
    return mapping


def merged(first: Cell, second: Cell) -> Cell:
    """`first` with the runs of both, cells of one recipe."""
    return dataclasses.replace(first, config=with_runs_of(first.config, first.config, second.config))


def with_runs_of(config: Config, *given: Config) -> Config:
    """`config` with the regimes and seeds of all `given` configs, those of the first one first."""
    regimes = dict.fromkeys(regime for one in given for regime in one.regimes)
    seeds = dict.fromkeys(seed for one in given for seed in one.seeds)
    return dataclasses.replace(config, regimes=tuple(regimes), seeds=tuple(seeds))


def labels_of(configs: Iterable[Config]) -> list[str]:
    """The regimes of several cells, in the order in which differences are taken."""
    return list(dict.fromkeys(regime.label for config in configs for regime in config.regimes))


def covers(first: Config, second: Config) -> bool:
    """Whether every run of `second` is among those of `first`, a config of the same cell."""
    return set(second.regimes) <= set(first.regimes) and set(second.seeds) <= set(first.seeds)


def n_shares(config: Config) -> int:
    """Number of workers that can train a cell at once: they share its runs and its tuning by the stage store."""
    if config.trainer.devices > 1 or not config.trainer.reuse:
        return 1
    return len(config.regimes) * max(len(config.seeds), config.tune.n_runs)


def _refuse_both(plural: str, single: str, overrides: Sequence[str]) -> None:
    """Raises ConfigError if the list `plural` is given next to an axis over `single`."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key == plural:
            raise ConfigError(plural, value, f"contradicts {single}=...; give one of the two")


def in_cell(error: ConfigError, overrides: Sequence[str]) -> ConfigError:
    """Adds the cell to an error whose line does not name it."""
    others = [text for text in overrides if not str(error).startswith(f"{re.sub('^[+]+', '', text)}:")]
    return error.adding(f"in the cell {' '.join(overrides)}") if others else error
