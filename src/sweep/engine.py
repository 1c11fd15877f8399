"""The interface between a sweep and what runs its cells: a module that the configuration names.

`src.sweep.laboratory` is the default; tests and benchmarks name modules of their own, which worker processes import
too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, cast

from src.cells.outcome import CellOutcome
from src.cells.resolve import ResolvedCell
from src.comparison.metrics import Score
from src.config import Config, Objective
from src.training.control import NO_CONTROL, RunControl

Report = Callable[[Path, Sequence[ResolvedCell], str], None]
"""Writes the end-of-command summary, from the sweep's folder, the command's cells and its command line."""


class Session(Protocol):
    """A command on a sweep, from its start to its end."""

    def verdict(self, cell_hash: str) -> str | None:
        """The winner of a finished cell, in one word; None if there is no single verdict."""

    def finish(self, cells: Sequence[ResolvedCell], report: Report) -> None:
        """Writes the `report` on the cells after the last one has ended."""


class Engine(Protocol):
    """The functions of a module that runs cells."""

    __name__: str

    def load(self) -> None:
        """Imports what `run_cell` needs: seconds, which a command itself does without."""

    def resolve(self, config: Config) -> ResolvedCell:
        """Loads the data of a cell. Raises ConfigError if settings and data contradict each other."""

    def run_cell(self, cell: ResolvedCell, control: RunControl = NO_CONTROL) -> CellOutcome:
        """Trains the missing runs of a cell, under `control`."""

    def help_cell(self, cell: ResolvedCell, control: RunControl) -> None:
        """Takes work off the worker that runs a cell, and writes nothing to the cell's folder."""

    def score(self, cell: ResolvedCell, objective: Objective) -> Score:
        """The value of a search's objective, from a cell's results on disk; reads validation sets only."""

    def record_failure(self, cell: ResolvedCell, reason: str) -> None:
        """Records the reason for every missing run of a cell whose workers died, on disk and for the tracker."""

    def free_device(self) -> None:
        """Frees the device memory that this process keeps between cells."""

    def session(self, cells: Sequence[ResolvedCell]) -> AbstractContextManager[Session]:
        """Opens a command in the parent process, before any of its `cells` runs (of a search: with its first cell)."""


DEFAULT_ENGINE = "src.sweep.laboratory"
"""The module that runs cells, unless a command line names another one."""


def load_engine(name: str) -> Engine:
    """Imports an engine by the name of its module."""
    return cast(Engine, importlib.import_module(name))
