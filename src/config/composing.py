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
    """A `Composer` for many command lines: Hydra composes each combination of group choices once, in some 100 ms.

    Plain values are set on its result; a line with anything else, or with an unknown key, is composed by Hydra as a
    whole.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._composed: dict[tuple[str, ...], Mapping[str, Any]] = {}
        self._groups: dict[str, bool] = {}

    def __call__(self, overrides: list[str]) -> Mapping[str, Any]:
        if not all(map(self._is_plain, overrides)):
            return compose_mapping(self._loader, overrides)
        groups = tuple(override for override in overrides if self._is_group(key_of(override)))
        if groups not in self._composed:
            self._composed[groups] = compose_mapping(self._loader, groups, resolve=False)
        mapping = dict(self._composed[groups])
        try:
            for override in overrides:
                if override not in groups:
                    set_value(mapping, override)
        except ConfigError:
            return compose_mapping(self._loader, overrides)
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(mapping), resolve=True))

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
        problem = f"unknown key; {did_you_mean(parsed.key_or_group, _all_keys(mapping))}"
        raise ConfigError(parsed.key_or_group, override.partition("=")[2], problem)
    both_groups = isinstance(value, dict) and isinstance(group.get(last), dict)
    group[last] = {**group[last], **value} if both_groups else copy.deepcopy(value)


def _all_keys(mapping: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in mapping.items():
        inner = _all_keys(value, f"{prefix}{name}.") if isinstance(value, Mapping) else []
        keys += [f"{prefix}{name}", *inner]
    return keys
