"""The command line that reproduces a configuration: what differs from the defaults, and nothing else."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from src.config.parse import compose
from src.config.plugins import BUILT_IN
from src.config.schema import Config
from src.regimes.config import RegimeConfig

GROUPS = ("data", "arch", "stopping", "optimizer")
WHERE = (
    "data.root",
    "data.download",
    "multirun",
    "storage",
    "n_workers",
    "dry_run",
    "sweep",
    "trainer.name",
    "trainer.slots",
    "trainer.checkpoint_seconds",
    "trainer.store_gib",
)
"""What says where and how it ran rather than what: left out of the command."""


def command(config: Config) -> str:
    """``python -m src.sweep ...`` for one cell."""
    chosen = (f"{group}={getattr(config, group).name}" for group in GROUPS)
    plugins = [f"plugins={text_of(list(config.plugins))}"] if config.plugins else []
    choices = (*plugins, *(choice for choice in chosen if choice not in _usual()))
    mine, default = dict(flat(config)), dict(flat(_default(choices)))
    words = list(choices)
    for key, value in mine.items():
        if key not in (*WHERE, "plugins") and not key.startswith(("tracking.", "launcher.")) and value != default[key]:
            words.append(f"{key}={text_of(value)}")
    if config.regimes != _default(choices).regimes:
        words.append(f"regimes={text_of([_regime(regime) for regime in config.regimes])}")
    if config.seeds != _default(choices).seeds:
        plain = config.seeds == tuple(range(len(config.seeds)))
        words.append(f"seeds={len(config.seeds) if plain else text_of(list(config.seeds))}")
    return " ".join(["python -m src.sweep", *(shlex.quote(word) for word in words)])


def flat(config: Config) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every setting but regimes and seeds."""
    import dataclasses

    def walk(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else key, item)
        else:
            yield prefix, value

    plain = dataclasses.asdict(config)
    yield from walk("", {key: value for key, value in plain.items() if key not in ("regimes", "seeds")})


@functools.cache
def _default(choices: tuple[str, ...]) -> Config:
    """The configuration with these group choices alone; what has no default (a path) is filled in to be composed."""
    needed = {
        f"{group}={name}": getattr(variant, "needs", ())
        for group in GROUPS
        for name, variant in BUILT_IN[group].items()
    }
    return compose([*choices, *(word for choice in choices for word in needed.get(choice, ()))])


@functools.cache
def _usual() -> frozenset[str]:
    config = _default(())
    return frozenset(f"{group}={getattr(config, group).name}" for group in GROUPS)


def _regime(regime: RegimeConfig) -> Any:
    return {regime.name: dict(regime.knobs)} if regime.knobs else regime.name


def text_of(value: Any) -> str:
    """A value as Hydra's command line reads it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(text_of(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{text_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str) and not re.fullmatch(r"[\w./@$%*+?-]+", value):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)
