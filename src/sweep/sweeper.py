"""Hydra's side of the sweep. A plugin is imported for every command, --help included: the rest waits until it is needed."""

from __future__ import annotations

from collections.abc import Mapping

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LabSweeper(Sweeper):
    """Hands the whole command line to `src.sweep.command.run_sweep` at once, instead of one job after the other.

    `engine`: the module that runs cells (`src.sweep.engine.Engine`). `params`: axes that the command line adds to and
    overrides, as in Hydra's own sweepers; a study uses it.
    """

    def __init__(self, engine: str, params: Mapping[str, str] | None = None) -> None:
        self._engine = engine
        self._params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's first call; the task is not used: a sweep's cells run in its workers."""
        del task_function
        self._loader = hydra_context.config_loader
        self._config = config

    def sweep(self, arguments: list[str]) -> None:
        """Hydra's second call, with the overrides of the command line."""
        from src.sweep.command import run_sweep

        params = [f"{key}={value}" for key, value in self._params.items()]
        hydra = self._config.hydra
        run_sweep(
            [*params, *arguments],
            self._loader,
            engine_name=self._engine,
            config_name=hydra.job.config_name,
            hydra=hydra.overrides.hydra,
        )
