"""The engine that a sweep runs unless its configuration names another (`src.sweep.engine.Engine`)."""

from src.cells.resolve import resolve
from src.cells.run import free_device, help_cell, load, run_cell, score
from src.cells.write import record_failure
from src.sweep.summary import session

__all__ = ["free_device", "help_cell", "load", "record_failure", "resolve", "run_cell", "score", "session"]
