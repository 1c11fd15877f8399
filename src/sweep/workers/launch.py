"""The workers that a sweep's settings ask for: one file a launcher."""

from __future__ import annotations

from src.config import Config
from src.sweep.folder import GRID, SweepFolder
from src.sweep.workers import local, ray, slurm

LAUNCHERS = {"local": local.launch, "slurm": slurm.launch, "ray": ray.launch}
"""By `config.launcher.name`."""


def workers_for(folder: SweepFolder, config: Config, engine: str, search: str = GRID) -> local.Workers:
    """The workers of a command. Raises ConfigError where they are not available."""
    return LAUNCHERS[config.launcher.name](folder, config, engine, search)
