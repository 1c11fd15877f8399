"""The params of a run: its axes, the main settings of training, and what differs from the defaults; config.yaml has
all."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from src.axes import axis_of, number
from src.config.command import WHERE
from src.io import CONF_DIR
from src.tracking.record import flatten

MAX_PARAMS = 20
"""Params of a run: more would hide the axes in MLflow's list of columns."""

MAIN = ("stopping.name", "optimizer.name", "optimizer.lr", "optimizer.batch_size", "split.size")
"""Settings that are params whatever their value."""

EXECUTION = (*WHERE, "tracking", "search", "launcher", "trainer.reuse")
"""Settings, or groups of them, that say where and how a run is executed."""

OTHERWISE_NAMED = ("regimes", "regime", "seeds", "seed", "study", "objective", "objective_direction")
"""Axes under another name, and what a search asks for."""

NO_PARAMS = frozenset((*EXECUTION, *OTHERWISE_NAMED))


def run_params(config: Mapping[str, Any], axes: Mapping[str, str]) -> dict[str, str]:
    """At most `MAX_PARAMS` params of a run with this config.yaml; its `axes` come first and all count."""
    settings = flatten(config)
    excluded = {key for key in settings if key in NO_PARAMS or key.partition(".")[0] in NO_PARAMS}
    excluded |= {key for key in settings if axis_of(key) in axes and key != "split.sizes"}
    main = {key: settings[key] for key in MAIN if settings.get(key, "null") != "null"}
    defaults = _defaults_of(config)
    differing = {
        key: value
        for key, value in settings.items()
        if key not in excluded and key not in main and number(value) != number(defaults.get(key, "null"))
    }
    params = dict(axes) | main | {key: value for key, value in differing.items() if key not in axes}
    if len(params) <= MAX_PARAMS:
        return params
    n_kept = max(len(axes), MAX_PARAMS - 1)
    shown = dict(list(params.items())[:n_kept])
    return shown | {"further": f"{len(params) - n_kept} settings that differ from the defaults: see config.yaml"}


def _defaults_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The default of every setting, given the variant of each group that `config` names."""
    usual, own = _file("config")
    defaults = dict(own)
    for group, variant in usual.items():
        settings = config.get(group)
        name = settings.get("name", variant) if isinstance(settings, Mapping) else variant
        defaults |= {f"{group}.{key}": value for key, value in _file(f"{group}/{name}")[1].items()}
        defaults[f"{group}.name"] = str(variant)
    return defaults


@functools.cache
def _file(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """The choices of groups and the settings in a file of conf/; none for a variant of a plugin."""
    import yaml

    path = CONF_DIR / f"{name}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    choices = [entry for entry in content.pop("defaults", []) if isinstance(entry, dict)]
    groups = {group: str(variant) for entry in choices for group, variant in entry.items() if "override" not in group}
    return groups, flatten(content)
