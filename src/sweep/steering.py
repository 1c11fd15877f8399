"""Steering a sweep while it runs, from another terminal: a cell is stopped, or runs next."""

from __future__ import annotations

from contextlib import closing

from optuna.trial import FrozenTrial

from src.errors import ConfigError
from src.sweep.folder import SweepFolder
from src.sweep.processes import Process
from src.sweep.queue.queue import OPEN, WorkQueue
from src.sweep.work import axes_text


def stop_cell(folder: SweepFolder, cell: str) -> str:
    """Ends an open cell as failed, so that the next command tries it again; returns a line for the user."""
    with Process(folder, "status") as process, closing(WorkQueue(folder, process, folder.read_queue())) as queue:
        trial = _find(queue, "stop", cell)
        is_over = queue.stop(trial)
    when = "is stopped" if is_over else "stops at its next update; finished runs and trained stages stay"
    return f"cell {trial.user_attrs['cell']} ({axes_text(trial)}) {when}; the sweep's command tries it again"


def run_next(folder: SweepFolder, cell: str) -> str:
    """Puts a waiting cell before all others; returns a line for the user."""
    with Process(folder, "status") as process, closing(WorkQueue(folder, process, folder.read_queue())) as queue:
        trial = _find(queue, "first", cell)
        queue.put_first(trial)
    return f"cell {trial.user_attrs['cell']} ({axes_text(trial)}) is the next that a worker takes"


def _find(queue: WorkQueue, key: str, cell: str) -> FrozenTrial:
    """The open trial of the grid's cell whose hash begins with `cell`."""
    trials = {trial.user_attrs["cell"]: trial for trial in queue.trials(*OPEN)}
    found = [trial for cell_hash, trial in trials.items() if cell_hash.startswith(cell)] if cell else []
    if len(found) != 1:
        problem = f"{len(found)} cells of the grid that run or wait have a hash that begins so; write more of it"
        several = ", ".join(trial.user_attrs["cell"] for trial in found[:4])
        waiting = "; ".join(f"{cell_hash} {axes_text(trial)}" for cell_hash, trial in list(trials.items())[:4])
        hint = several or f"there are: {waiting}" if trials else "the grid has none"
        raise ConfigError(key, cell, f"{problem}; {hint}")
    return found[0]
