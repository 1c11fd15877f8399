"""The tests' engine, which trains nothing, with a log of when each cell began and ended."""

from __future__ import annotations

import os
import time
from typing import Any

from src.cells.resolve import ResolvedCell
from src.training.control import NO_CONTROL, RunControl
from tests.sweep import fake_engine


def __getattr__(name: str) -> Any:
    return getattr(fake_engine, name)


def run_cell(cell: ResolvedCell, control: RunControl = NO_CONTROL) -> Any:
    """Run a cell and log its times, in seconds of the system's monotonic clock."""
    began = time.monotonic()
    outcome = fake_engine.run_cell(cell, control)
    fake_engine.note(cell.config, f"took {os.getpid()} {began} {time.monotonic()}")
    return outcome
