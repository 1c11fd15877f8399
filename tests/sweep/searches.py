"""The command line of a search, as the sweep reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from src.sweep.grid.line import CommandLine


def line_of(*overrides: str) -> CommandLine:
    """Compose a search as `run_sweep` does; needs the fixture `hydra`."""
    follows = any("${" in override for override in overrides)

    def composed(given: list[str]) -> Mapping[str, Any]:
        return cast(Mapping[str, Any], OmegaConf.to_container(compose("config", given), resolve=not follows))

    return CommandLine(overrides, composed, GlobalHydra.instance().config_loader(), resolved=not follows)
