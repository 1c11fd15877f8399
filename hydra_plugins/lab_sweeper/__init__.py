"""Hydra's side of the sweep. Hydra 1.3 finds plugins in this namespace only.

Hydra imports it for every command, also for --help, so it imports little.
"""

from __future__ import annotations

from collections.abc import Mapping

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LabSweeper(Sweeper):
    """Passes the whole command line to `src.sweep.command.run_sweep`, instead of one job after the other.

    `engine`: the module that runs cells (`src.sweep.engine.Engine`). `params`: axes that the command line adds to and
    overrides, as in Hydra's own sweepers; studies use it.
    """

    def __init__(self, engine: str, params: Mapping[str, str] | None = None) -> None:
        self._engine = engine
        self._params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's first call. The task is unused: workers run the cells."""
        del task_function
        self._loader = hydra_context.config_loader
        self._config = config

    def sweep(self, arguments: list[str]) -> None:
        """Hydra's second call, with the overrides of the command line."""
        from src.sweep.command import run_sweep

        params = [f"{key}={value}" for key, value in self._params.items()]
        run_sweep([*params, *arguments], self._loader, self._engine, self._config.hydra)
