"""The outcome of running a cell; loads nothing, since a worker reads it before the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CellOutcome:
    """What a call of `Engine.run_cell` achieved.

    Attributes:
        value: The value that Optuna shows for the cell; None if it has none, e.g. because its runs failed.
        failures: One line for each run that failed, or that makes the cell inconclusive.
        out_of_memory: Whether a run failed because its device had too little memory, so that a whole device may be
            enough.
        folders: Run folders that this call wrote.
    """

    value: float | None
    failures: tuple[str, ...] = ()
    out_of_memory: bool = False
    folders: tuple[Path, ...] = ()
