"""The workers that a sweep's settings ask for: one file a launcher."""

from __future__ import annotations

from src.config import Config
from src.sweep.folder import GRID, SweepFolder
from src.sweep.workers.local import Workers, launch
from src.sweep.workers.ray import RayWorkers
from src.sweep.workers.slurm import SlurmWorkers

LAUNCHERS = {"local": launch, "slurm": SlurmWorkers, "ray": RayWorkers}
"""By `config.launcher.name`."""


def workers_for(folder: SweepFolder, config: Config, engine: str, search: str = GRID) -> Workers:
    """The workers of a command. Raises ConfigError where they are not available."""
    return LAUNCHERS[config.launcher.name](folder, config, engine, search)
