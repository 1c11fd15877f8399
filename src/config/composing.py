"""Composition of conf/config.yaml under overrides; many command lines with the same choices of groups cost little
each."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from src.errors import ConfigError, did_you_mean
from src.io import CONF_DIR
from src.typed import dotted_keys

Composer = Callable[[list[str]], Mapping[str, Any]]
"""Composes conf/config.yaml under overrides without sweeps, to a resolved mapping."""

PLAIN = re.compile(r"\w+(\.\w+)*=[^{]*")
"""``key=value`` whose value is no mapping, which Hydra would merge into the one that is there."""


def compose_mapping(
    loader: ConfigLoader,
    overrides: Sequence[str],
    *,
    config_name: str = "config",
    hydra: Sequence[str] = (),
    resolve: bool = True,
) -> dict[str, Any]:
    """The configuration under `overrides` as plain data, without Hydra's own settings, which `hydra` overrides."""
    composed = loader.load_configuration(config_name, [*hydra, *overrides], RunMode.RUN, from_shell=False)
    with open_dict(composed):
        del composed["hydra"]
    return cast(dict[str, Any], OmegaConf.to_container(composed, resolve=resolve))


class GroupComposer:
    """A `Composer` for many command lines, each composed once.

    Hydra composes each combination of group choices once, in some 100 ms, and plain values are set on its result; a
    line with anything else, or with an unknown key, is composed by Hydra as a whole. `settings`: those of
    `compose_mapping`.
    """

    def __init__(self, loader: ConfigLoader, *, resolve: bool = True, **settings: Any) -> None:
        self._loader, self._resolve = loader, resolve
        self._settings = settings
        self._composed: dict[tuple[str, ...], Mapping[str, Any]] = {}
        self._of_groups: dict[tuple[str, ...], Mapping[str, Any]] = {}
        self._groups: dict[str, bool] = {}

    def __call__(self, overrides: list[str]) -> Mapping[str, Any]:
        line = tuple(overrides)
        if line not in self._composed:
            self._composed[line] = self._by_groups(line) or self._compose(line, resolve=self._resolve)
        return self._composed[line]

    def _compose(self, line: Sequence[str], *, resolve: bool) -> Mapping[str, Any]:
        return compose_mapping(self._loader, line, resolve=resolve, **self._settings)

    def _by_groups(self, line: Sequence[str]) -> Mapping[str, Any] | None:
        """The mapping, from that of the line's groups; None if Hydra has to compose the whole line."""
        if not all(map(self._is_plain, line)):
            return None
        groups = tuple(override for override in line if self._is_group(key_of(override)))
        if groups not in self._of_groups:
            self._of_groups[groups] = self._compose(groups, resolve=False)
        mapping = dict(self._of_groups[groups])
        try:
            for override in line:
                if override not in groups:
                    set_value(mapping, override)
        except ConfigError:
            return None
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(mapping), resolve=self._resolve))

    def _is_plain(self, override: str) -> bool:
        if not PLAIN.fullmatch(override) or key_of(override) == "plugins":  # these change the groups
            return False
        try:
            return not assignment(override)[0].is_sweep_override()
        except HydraException:  # reported with the whole line
            return False

    def _is_group(self, key: str) -> bool:
        if key not in self._groups:
            self._groups[key] = bool(self._loader.get_group_options(key))
        return self._groups[key]


@functools.cache
def composer() -> GroupComposer:
    """The composer of conf/, one for the process."""
    outer = GlobalHydra.instance().hydra  # a command that Hydra itself started; put back when done
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return GroupComposer(GlobalHydra.instance().config_loader())
    finally:
        GlobalHydra.instance().hydra = outer


def key_of(override: str) -> str:
    """``a.b`` of ``a.b=value``."""
    return override.partition("=")[0]


def typed_value(override: Override) -> str:
    """The value of an override, as typed."""
    assert override.input_line is not None
    return override.input_line.partition("=")[2]


@functools.cache
def assignment(override: str) -> tuple[Override, Any]:
    """Parses an override; cached, since the grammar is slow and a grid repeats its values."""
    parsed = OverridesParser.create().parse_override(override)
    return parsed, parsed.value()


def set_value(mapping: dict[str, Any], override: str) -> None:
    """Sets ``a.b=value`` in the nested `mapping`, as Hydra would; ``+a.b=value`` may add the last key.

    The groups on the way are copied first, so that other mappings may share them.
    """
    parsed, value = assignment(override)
    *parents, last = parsed.key_or_group.split(".")
    group: Any = mapping
    for name in parents:
        inner = group.get(name) if isinstance(group, dict) else None
        if isinstance(inner, dict):
            inner = group[name] = dict(inner)
        group = inner
    if not isinstance(group, dict) or (last not in group and not parsed.is_add()):
        problem = f"unknown key; {did_you_mean(parsed.key_or_group, list(dotted_keys(mapping)))}"
        raise ConfigError(parsed.key_or_group, override.partition("=")[2], problem)
    both_groups = isinstance(value, dict) and isinstance(group.get(last), dict)
    group[last] = {**group[last], **value} if both_groups else copy.deepcopy(value)
