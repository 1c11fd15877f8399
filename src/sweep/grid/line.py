"""A sweep's command line: its axes, and the composed mapping under each choice of their values."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from src.config.composing import Composer, key_of, set_value, typed_value
from src.errors import ConfigError

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
