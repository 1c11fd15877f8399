"""What a sweep needs to know about its cells: a module, named in the configuration, that the sweep itself never imports
from below (`src.compare`; a test names one of its own)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, cast

from src.config import Config, RegimeConfig


class Interrupted(BaseException):
    """Raised inside `Engine.run_cell`, by its `on_run` or `on_stage`, to leave the cell at once.

    What is finished stays, the rest waits.

    Not an Exception, so that no handler for a run's failure takes it for one.
    """


class Outcome(Protocol):
    """What became of a cell."""

    @property
    def value(self) -> float | None:
        """What Optuna shows as the trial's value; None when the cell has none, e.g. because its runs failed."""

    @property
    def failures(self) -> Sequence[str]:
        """One line for each run that failed or that makes the cell inconclusive."""

    @property
    def out_of_memory(self) -> bool:
        """Whether a run failed for want of memory on its device, so that it may go well with the device to itself."""


class Engine(Protocol):
    """The functions of the module that runs cells."""

    def cell_dir(self, config: Config) -> Path:
        """``multirun/<sweep>/cells/<hash>``; the last part is the cell's hash."""

    def missing_runs(self, config: Config) -> list[tuple[RegimeConfig, int]]:
        """The runs of regimes x seeds that have no result on disk."""

    def run_cell(
        self,
        config: Config,
        *,
        on_run: Callable[[Path], None] | None = None,
        on_stage: Callable[[], None] | None = None,
    ) -> Outcome:
        """Trains what is missing; calls `on_run` with each run's folder once its result.json is there, and `on_stage`
        wherever the cell can be left without losing what was trained."""

    def free_device(self) -> None:
        """Frees the memory that this process keeps on its device between cells: somebody else has it now."""

    def record_failure(self, config: Config, reason: str) -> None:
        """Notes the `reason`, on disk and with the tracker, for every missing run of a cell whose workers died."""

    def on_start(self, configs: Sequence[Config]) -> None:
        """Called once, in the parent, when all cells are valid and before any runs: prepares databases, opens the sweep."""

    def verdict(self, config: Config) -> str | None:
        """Who wins the finished cell, in one word for the running count; None when it cannot be said."""

    def on_finish(self, configs: Sequence[Config]) -> None:
        """Called once, in the parent, when no cell of the command is left to run: the table, the map, the tracker."""


def load_engine(name: str) -> Engine:
    """The engine by its module's name."""
    return cast(Engine, importlib.import_module(name))
