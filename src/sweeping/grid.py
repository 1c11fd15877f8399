"""From the sweep's command line to its cells: typed, checked, each recipe once.

An axis over `regime`, a regime's knob or `seed` is an axis of runs: it widens the list of regimes or seeds of every cell.
Any other axis is one of cells, and the grid is the product of them all in the order of the command line, the first
slowest. Nothing runs before the whole grid is composed and parsed.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from src.config import Config, ConfigError, parse
from src.config.typed import did_you_mean

Composer = Callable[[list[str]], Mapping[str, Any]]
"""From overrides without sweeps to the resolved mapping of conf/config.yaml under them."""

SHORT_NAMES = {
    "split.ratio": "ratio",
    "split.sizes": "ratio",
    "split.imbalance": "imbalance",
    "split.shift.kind": "shift",
    "split.shift.amount": "shift",
    "split.shift.source": "shift",
    "stopping.epochs": "epochs",
    "stopping.max_epochs": "epochs",
    "arch": "arch",
    "arch.model": "arch",
    "data": "data",
}
"""Keys whose value `Config.axes` already shows under a short name."""

SWEEP_KEYS = ("sweep", "multirun", "storage", "n_workers", "dry_run", "tracking", "search", "launcher")
"""One value for the whole sweep: none of them can be an axis."""


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep: its config, and the overrides that set it apart from the sweep's other cells."""

    config: Config
    overrides: tuple[str, ...] = ()

    @property
    def axes(self) -> dict[str, str | float | int]:
        """Every axis with its value, by short name: those all cells have, then the further ones that are swept."""
        named = dict(self.config.axes())
        for override in self.overrides:
            key, _, text = override.lstrip("+").partition("=")
            if key not in SHORT_NAMES:
                named[key] = number(text)
        return named

    @property
    def n_runs(self) -> int:
        """Number of runs: regimes x seeds."""
        return len(self.config.regimes) * len(self.config.seeds)


def number(text: str) -> str | float | int:
    """The number that `text` writes, or `text` itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def expand(arguments: Sequence[str], compose: Composer, loader: ConfigLoader) -> list[Cell]:
    """The cells that the overrides `arguments` of a sweep describe.

    `compose` is called once per combination of swept group choices (``arch=mlp,cnn``); other values are set on what it
    returns, which is a hundred times faster. Raises ConfigError naming the cell, and what `compose` raises.
    """
    axes, fixed = _axes(OverridesParser.create(loader).parse_overrides(list(arguments)))
    run_keys = [key for key in axes if _is_run_key(key)]
    cell_keys = [key for key in axes if not _is_run_key(key)]
    refers = any(
        "${" in argument for argument in arguments
    )  # a value that follows another one must be composed with it
    composed_keys = {key for key in axes if refers or ("." not in key and loader.get_group_options(key.lstrip("+")))}
    composed: dict[tuple[str, ...], Mapping[str, Any]] = {}

    def mapping_of(choices: Sequence[str]) -> dict[str, Any]:
        to_compose = tuple(choice for choice in choices if _key(choice) in composed_keys)
        if to_compose not in composed:
            composed[to_compose] = compose([*fixed, *to_compose])
        mapping = copy.deepcopy(dict(composed[to_compose]))
        for choice in choices:
            if _key(choice) not in composed_keys:
                _set_value(mapping, choice)
        return mapping

    regime_axes = [axes[key] for key in run_keys if key != "seed"]
    cells: dict[str, Cell] = {}
    for choices in itertools.product(*(axes[key] for key in cell_keys)):
        overrides = tuple(choice for choice, key in zip(choices, cell_keys, strict=True) if len(axes[key]) > 1)
        try:
            mapping = mapping_of(choices)
            if regime_axes:
                _refuse_both("regimes", "regime", [*choices, *fixed])
                mapping["regimes"] = [
                    mapping_of([*choices, *runs])["regime"] for runs in itertools.product(*regime_axes)
                ]
            if "seed" in axes:
                _refuse_both("seeds", "seed", [*choices, *fixed])
                mapping["seeds"] = [_assignment(choice)[1] for choice in axes["seed"]]
            cell = Cell(parse(mapping), overrides)
        except ConfigError as error:
            raise in_cell(error, overrides) from error
        key = _recipe_key(cell.config)
        cells[key] = merged(cells[key], cell) if key in cells else cell
    return list(cells.values())


def merged(first: Cell, second: Cell) -> Cell:
    """The cell that holds the regimes and seeds of both, those of `first` first; both have the same recipe."""
    return Cell(
        dataclasses.replace(
            first.config,
            regimes=union(first.config.regimes, second.config.regimes),
            seeds=union(first.config.seeds, second.config.seeds),
        ),
        first.overrides,
    )


def union(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    """The items of `first`, then those of `second` that are new."""
    return first + tuple(item for item in second if item not in first)


def covers(first: Config, second: Config) -> bool:
    """Whether every run of `second` is among those of `first`, a config of the same cell."""
    return set(second.regimes) <= set(first.regimes) and set(second.seeds) <= set(first.seeds)


def _axes(overrides: Sequence[Override]) -> tuple[dict[str, list[str]], list[str]]:
    """The axes, as ``key -> [key=value, ...]``, and the overrides that are the same for all cells.

    `regime` and `seed` are axes even with one value: they name the runs that the sweep compares.
    """
    axes: dict[str, list[str]] = {}
    fixed: list[str] = []
    for override in overrides:
        key = override.get_key_element()
        assert override.input_line is not None
        value = override.input_line.partition("=")[2]
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise ConfigError(key, value, "an interval needs a search, e.g. search=tpe; a grid lists its values")
            if key.partition(".")[0] in SWEEP_KEYS:
                raise ConfigError(key, value, "cannot be an axis; it is one for the whole sweep")
            axes[key] = list(dict.fromkeys(f"{key}={value}" for value in override.sweep_string_iterator()))
        elif _is_run_key(key):
            axes[key] = [override.input_line]
        else:
            axes.pop(key, None)
            fixed.append(override.input_line)
    return axes, fixed


def _is_run_key(key: str) -> bool:
    return key in ("regime", "seed") or key.startswith("regime.")


def _key(override: str) -> str:
    return override.partition("=")[0]


def _refuse_both(plural: str, single: str, overrides: Sequence[str]) -> None:
    """An axis over `regime` or `seed` says what the lists `regimes` and `seeds` say."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key == plural:
            raise ConfigError(plural, value, f"contradicts {single}=...; give one of the two")


@functools.cache
def _assignment(override: str) -> tuple[Override, Any]:
    """An override parsed, with its value; cached, since the grammar is slow and a grid repeats few values many times."""
    parsed = OverridesParser.create().parse_override(override)
    return parsed, parsed.value()


def _set_value(mapping: dict[str, Any], override: str) -> None:
    """Sets ``a.b=value`` in the nested `mapping`, as Hydra would; ``+a.b=value`` may add the last key."""
    parsed, value = _assignment(override)
    *parents, last = parsed.key_or_group.split(".")
    place: Any = mapping
    for name in parents:
        place = place.get(name) if isinstance(place, dict) else None
    if not isinstance(place, dict) or (last not in place and not parsed.is_add()):
        problem = f"unknown key; {did_you_mean(parsed.key_or_group, _all_keys(mapping))}"
        raise ConfigError(parsed.key_or_group, override.partition("=")[2], problem)
    both_groups = isinstance(value, dict) and isinstance(place.get(last), dict)
    place[last] = {**place[last], **value} if both_groups else copy.deepcopy(value)


def _all_keys(mapping: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in mapping.items():
        inner = _all_keys(value, f"{prefix}{name}.") if isinstance(value, Mapping) else []
        keys += [f"{prefix}{name}", *inner]
    return keys


def _recipe_key(config: Config) -> str:
    """Equal for cells of one recipe on one source; paths count here, since the content behind them is not read yet."""
    data = dataclasses.asdict(config.data)
    return json.dumps([config.recipe(), data], sort_keys=True, default=str)


def in_cell(error: ConfigError, overrides: Sequence[str]) -> ConfigError:
    """The same error, saying in which cell, where its own line does not."""
    others = [text for text in overrides if not str(error).startswith(f"{re.sub('^[+]+', '', text)}:")]
    if not others:
        return error
    head, _, problem = str(error).partition(": ")
    return ConfigError(error.key, head.removeprefix(f"{error.key}="), f"{problem} (in the cell {' '.join(overrides)})")
