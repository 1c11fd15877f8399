"""A configuration as YAML, from which `parse` makes the same configuration again."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from src.config.parse import parse
from src.config.plugins import require_trusted
from src.config.schema import Config
from src.config.tune import OFF
from src.errors import ConfigError
from src.regimes.catalog import RegimeConfig

Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

SECTION = re.compile(r"^(?=[A-Za-z_])", re.MULTILINE)
"""Where a top-level key starts in the files written here."""

OF_A_RUN = ("regime", "seed", "regimes", "seeds")
"""Keys in which the runs of a cell differ."""


def config_text(config: Config) -> str:
    """The YAML of a cell, which `read_config` reads."""
    return str(yaml.dump(to_mapping(config), Dumper=Dumper, sort_keys=False, default_flow_style=None, width=120))


def run_text(config: Config, regime: RegimeConfig, seed: int) -> str:
    """The YAML of one run of a cell."""
    own, listed = _regime_texts(regime)
    return f"{_shared_text(config)}{own}seed: {seed}\n{listed}seeds:\n- {seed}\n"


@functools.lru_cache(maxsize=64)
def _regime_texts(regime: RegimeConfig) -> tuple[str, str]:
    """The regime itself and as a list of one, which all its runs share."""
    entry = plain({"name": regime.name, **dict(regime.knobs)})
    own, listed = ({"regime": entry}, {"regimes": [dict(entry)]})
    return yaml.dump(own, Dumper=Dumper, sort_keys=False), yaml.dump(listed, Dumper=Dumper, sort_keys=False)


@functools.lru_cache(maxsize=1)
def _shared_text(config: Config) -> str:
    """The part that all runs of a cell share: writing it takes longer than everything else in a run's folder."""
    shared = {key: value for key, value in to_mapping(config).items() if key not in OF_A_RUN}
    return yaml.dump(shared, Dumper=Dumper, sort_keys=False)


def read_config(path: Path, multirun: Path) -> Config:
    """Reads a cell's YAML. `multirun`: where that folder is now, which may have moved since.

    Raises ConfigError that names the file if it is damaged, or if it names a plugin that is not trusted.
    """
    fix = "delete it, and repeat the sweep's command"
    try:
        content = read_settings(path.read_text(encoding="utf-8"))
        if not content:
            raise ValueError("it holds no settings")
    except ValueError as error:
        raise ConfigError("cell", path.parent.name, f"{path} is damaged ({error}); {fix}") from error
    require_trusted(content.get("plugins"), multirun)
    try:
        return parse({**content, "multirun": str(multirun)})
    except ConfigError as error:
        error.args = (f"{error} (in {path}; if it is damaged, {fix})",)
        raise


def read_settings(text: str) -> dict[str, Any]:
    """The content of a YAML file of settings, not to be modified: sections that many files share are parsed once.

    Raises ValueError if it is damaged.
    """
    sections = [text] if "&" in text else SECTION.split(text)  # an anchor may stand for a value in other sections
    return {key: value for section in sections for key, value in _section(section).items()}


@functools.lru_cache(maxsize=1024)
def _section(text: str) -> dict[str, Any]:
    try:
        content = yaml.load(text, Loader=Loader) or {}
    except (RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__} instead of settings")
    return content


def to_mapping(config: Config) -> Mapping[str, Any]:
    """The configuration as plain lists and mappings."""
    mapping: dict[str, Any] = plain(dataclasses.asdict(config))
    if config.tune == OFF:  # a later key, as in `src.typed.content`
        del mapping["tune"]
    mapping["regimes"] = [{"name": regime.name, **plain(dict(regime.knobs))} for regime in config.regimes]
    mapping["regime"] = dict(mapping["regimes"][0])
    mapping["seed"] = config.seeds[0]
    return mapping


def plain(value: Any) -> Any:
    """Converts tuples to lists at every depth, for YAML and JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
