"""How a worker observes the training of a cell, its own or one that it helps with, and leaves it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from cachetools import TTLCache, cached

from src.errors import ClaimLost, Interrupted
from src.training.control import OnProgress, ProgressReport, RunControl

LOOK_SECONDS = 1.0
"""Time between two reads of a shared folder or a server."""

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)


def once_a_second(look: Callable[[], Answer]) -> Callable[[], Answer]:
    """A function that reads a shared folder or asks a server, whose answer is kept for `LOOK_SECONDS`."""
    kept: Callable[[], Answer] = cached(TTLCache(maxsize=1, ttl=LOOK_SECONDS))(look)
    return kept


class WorkerControl(RunControl):
    """Leaves the cell when this worker or the cell is asked to stop, or when others have taken it over.

    `is_stopped`: whether to leave. `report`: receives the progress of a trial that may be pruned. `owns_cell`: whether
    no other worker has taken it over. `n_workers`, `helps`: see `RunControl`; the number is looked up once a second.
    """

    def __init__(
        self,
        is_stopped: Callable[[], bool],
        report: OnProgress | None,
        owns_cell: Callable[[], bool],
        n_workers: Callable[[], int],
        *,
        helps: bool = False,
    ) -> None:
        self._is_stopped, self._report, self._owns_cell = is_stopped, report, owns_cell
        self.wants_progress, self.helps = report is not None, helps
        self._n_workers = once_a_second(n_workers)

    def n_workers(self) -> int:
        return 1 if self.wants_progress else self._n_workers()

    def before_run(self) -> None:
        if not self._owns_cell():
            raise ClaimLost

    def on_run(self, folder: Path) -> None:
        log.info("finished %s/%s", folder.parent.name, folder.name)
        self.on_stage()

    def on_stage(self) -> None:
        if self._is_stopped():
            raise Interrupted

    def on_progress(self, reports: Sequence[ProgressReport]) -> None:
        assert self._report is not None
        self._report(reports)
