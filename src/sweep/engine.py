"""What a sweep needs to know about its cells: a module, named in the configuration, that the sweep itself never imports
from below (`src.cells.run`; a test names one of its own)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from src.comparison.objective import Score
from src.config import Config, Objective
from src.regimes.config import RegimeConfig
from src.training.control import OnProgress

if TYPE_CHECKING:
    from src.sweep.search.command import Searched


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


class Session(Protocol):
    """What a command says of its cells, from its start to its end."""

    def verdict(self, cell: str) -> str | None:
        """Who wins the finished cell with that hash, in one word for the running count; None when it cannot be said."""

    def finish(self) -> None:
        """No cell is left to run: the table, the map, the tracker."""

    def finish_search(self, cells: Mapping[str, Config], searched: Searched) -> None:
        """The same after a search, whose cells are `cells`, by their hashes."""


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
        on_progress: OnProgress | None = None,
    ) -> Outcome:
        """Trains what is missing; calls `on_run` with each run's folder once its result.json is there, and `on_stage`
        wherever the cell can be left without losing what was trained.

        `on_progress` is for cells of one regime of which no run is finished yet: it hears how far all runs have come.
        """

    def free_device(self) -> None:
        """Frees the memory that this process keeps on its device between cells: somebody else has it now."""

    def record_failure(self, config: Config, reason: str) -> None:
        """Notes the `reason`, on disk and with the tracker, for every missing run of a cell whose workers died."""

    def score(self, config: Config, objective: Objective) -> Score:
        """What the results on disk of a cell that was run are worth, read from validation sets alone."""

    def session(self, cells: Mapping[str, Config]) -> AbstractContextManager[Session]:
        """Entered in the parent, when all `cells` (by their hashes; of a search: one of them) are valid and before any
        runs: prepares databases, opens the sweep."""


def load_engine(name: str) -> Engine:
    """The engine by its module's name."""
    return cast(Engine, importlib.import_module(name))
