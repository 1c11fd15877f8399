"""How the caller of a cell observes its training and ends it early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path


@dataclass(frozen=True)
class ProgressReport:
    """A point of training that every run of a cell has reached.

    `share`: fraction of the updates of the last stage. `means`: mean over the runs of every metric of the validation
    curves at that point, e.g. ``val/union/accuracy``.
    """

    share: Fraction
    means: Mapping[str, float]


OnProgress = Callable[[Sequence[ProgressReport]], None]


class RunControl:
    """Observes a cell while it trains; this base class does nothing.

    An exception raised by a method ends the cell; finished stages and the progress of the others are saved first.
    """

    wants_progress: bool = False
    """Whether to call `on_progress`, for a cell with one regime and no finished run."""
    helps: bool = False
    """Whether another worker runs the cell, which writes to its folder; this one only trains stages into the store."""

    def n_workers(self) -> int:
        """Number of workers that train the cell's stages, or are free to, this one included."""
        return 1

    def before_run(self) -> None:
        """Called before the result or the failure of a run is written; raises `ClaimLost` where others write it."""

    def on_run(self, folder: Path) -> None:
        """Called when the result.json in a run's `folder` is written."""

    def on_stage(self) -> None:
        """Called before every group of stages, while it trains, and while the cell waits for another worker."""

    def on_progress(self, reports: Sequence[ProgressReport]) -> None:
        """Called with all progress reports so far, in order, whenever there may be more."""


NO_CONTROL = RunControl()
