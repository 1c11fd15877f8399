"""The command line that reproduces a configuration: what differs from the defaults, and nothing else."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.config.parse import compose
from src.config.plugins import BUILT_IN
from src.config.schema import Config
from src.regimes.checkpoint import split_pin
from src.typed import as_dict, leaves

GROUPS = ("data", "arch", "stopping", "optimizer", "tune")
WHERE = (
    "data.root",
    "data.download",
    "multirun",
    "storage",
    "n_workers",
    "dry_run",
    "baseline",
    "margin",
    "sweep",
    "plugins",
    "trainer.name",
    "trainer.slots",
    "trainer.checkpoint_seconds",
    "trainer.store_gib",
)
"""Settings that do not change a result: left out of the command, like those of `tracking` and `launcher`."""


def command(config: Config) -> str:
    """``python -m src.sweep ...`` for one cell."""
    chosen = [(group, getattr(config, group).name) for group in GROUPS]
    plugins = [f"plugins={text_of(list(config.plugins))}"] if config.plugins else []
    usual, _ = _default(())
    choices = (*plugins, *(f"{group}={name}" for group, name in chosen if name != getattr(usual, group).name))
    (default, defaults), words = _default(choices), list(choices)
    for key, value in flat(config):
        if key not in WHERE and not key.startswith(("tracking.", "launcher.")) and value != defaults[key]:
            words.append(f"{key}={text_of(value)}")
    if config.regimes != default.regimes:
        regimes = [{regime.name: dict(regime.knobs)} if regime.knobs else regime.name for regime in config.regimes]
        words.append(f"regimes={text_of(regimes)}")
    if config.seeds != default.seeds:
        plain = config.seeds == tuple(range(len(config.seeds)))
        words.append(f"seeds={len(config.seeds) if plain else text_of(list(config.seeds))}")
    return " ".join(["python -m src.sweep", *(shlex.quote(word) for word in words)])


def on_sweep(module: str, sweep_dir: Path, plugins: Sequence[str]) -> str:
    """``python -m src.MODULE sweep=NAME`` for a sweep whose cells name these `plugins`."""
    words = [f"sweep={sweep_dir.name}"]
    words += [f"multirun={sweep_dir.parent}"] if sweep_dir.parent != Path("multirun") else []
    words += [f"plugins={text_of([split_pin(plugin)[0] for plugin in plugins])}"] if plugins else []
    return " ".join([f"python -m src.{module}", *map(shlex.quote, words)])


def flat(config: Config) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every setting but regimes and seeds."""
    return ((key, value) for key, value in leaves(as_dict(config)) if key not in ("regimes", "seeds"))


@functools.cache
def _default(choices: tuple[str, ...]) -> tuple[Config, dict[str, Any]]:
    """The configuration with these group choices alone, and its settings by dotted key; what has no default (a path) is
    filled in to be composed."""
    needed: list[str] = []
    for group, _, name in (choice.partition("=") for choice in choices):
        needed += getattr(BUILT_IN.get(group, {}).get(name), "needs", ())
    default = compose([*choices, *needed])
    return default, dict(flat(default))


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
        # Hydra reads a backslash as an escape only in a row of them that ends at a quote
        escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), value)
        return f"'{escaped}'"
    return str(value)
