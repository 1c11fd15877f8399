"""Expands a sweep's command line to its cells: typed, checked, each recipe once.

An axis over `regime`, a regime's knob or `seed` is a run axis: it extends the regimes or seeds of every cell. Any other
axis is a cell axis, and the grid is their product in the order of the command line, the first slowest. Nothing runs
before the whole grid is composed and parsed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader

from src.axes import AxisValue, axis_of, number
from src.config import Config, parse
from src.config.composing import Composer, assignment, typed_value
from src.config.seeding import AUTO, Seeding, parse_seeding
from src.errors import ConfigError
from src.progress import tracked
from src.sweep.grid.line import CommandLine, is_run_key


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


def expand(arguments: Sequence[str], compose: Composer, loader: ConfigLoader) -> list[Cell]:
    """The cells that the overrides `arguments` of a sweep describe; see `expand_line`."""
    return expand_line(CommandLine(arguments, compose, loader))


def expand_line(line: CommandLine) -> list[Cell]:
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
        key = _recipe_key(cell.config)
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


def _recipe_key(config: Config) -> str:
    """Equal for cells of one recipe and source; includes paths, since the data is not read yet."""
    return json.dumps([config.recipe(), dataclasses.asdict(config.data)], sort_keys=True, default=str)


def in_cell(error: ConfigError, overrides: Sequence[str]) -> ConfigError:
    """Adds the cell to an error whose line does not name it."""
    others = [text for text in overrides if not str(error).startswith(f"{re.sub('^[+]+', '', text)}:")]
    return error.adding(f"in the cell {' '.join(overrides)}") if others else error
