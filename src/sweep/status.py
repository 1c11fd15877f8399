"""The status of a sweep, for another terminal: cells by state, workers, failures, and the time left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing

from optuna.trial import FrozenTrial, TrialState

from src.sweep.folder import SweepFolder, searches_of
from src.sweep.processes import Process, ProcessInfo
from src.sweep.progress import duration
from src.sweep.queue.queue import DROPPED, WorkQueue
from src.sweep.search.trials import TrialQueue, best_text, latest

GROUPS = {
    "done": (TrialState.COMPLETE, TrialState.PRUNED),
    "running": (TrialState.RUNNING,),
    "waiting": (TrialState.WAITING,),
    "failed": (TrialState.FAIL,),
}


def status_lines(folder: SweepFolder) -> list[str]:
    """The output of `python -m src.status`. Raises ConfigError where there is no such sweep."""
    description = folder.read_queue()
    lines = []
    with Process(folder, "status") as process:
        workers = process.others("worker")
        with closing(WorkQueue(folder, process, description)) as queue:
            trials = [trial for trial in queue.trials() if trial.user_attrs.get("reason") != DROPPED]
        searches = searches_of(folder)
        if trials or not searches:
            lines += _grid_lines(folder.sweep, trials, workers)
        for search_id in searches:
            with closing(TrialQueue(folder, process, description, search_id)) as found:
                lines += _search_lines(f"{folder.sweep}, search {search_id}", found, workers)
    return lines


def _grid_lines(title: str, trials: Sequence[FrozenTrial], workers: Sequence[ProcessInfo]) -> list[str]:
    by_cell = {trial.user_attrs["cell"]: trial for trial in trials}  # the last trial of a cell counts
    counts = {name: sum(t.state in states for t in by_cell.values()) for name, states in GROUPS.items()}
    lines = [_title(title, counts)]
    lines += _worker_lines(trials, workers, counts["running"] + counts["waiting"])
    failed = (trial for trial in by_cell.values() if trial.state == TrialState.FAIL)
    return lines + [f"failed: {_axes(trial)}: {trial.user_attrs.get('reason', 'unknown')}" for trial in failed]


def _search_lines(title: str, queue: TrialQueue, workers: Sequence[ProcessInfo]) -> list[str]:
    trials = queue.trials()
    points = list(latest(trials).values())
    states = Counter(point.state for point in points)
    n_left = max(0, queue.search.config.n_trials - sum(point.state.is_finished() for point in points))
    counts = {
        "done": states[TrialState.COMPLETE],
        "pruned": states[TrialState.PRUNED],
        "failed": states[TrialState.FAIL],
        "running": states[TrialState.RUNNING],
        "left": n_left,
    }
    lines = [_title(title, counts)]
    if best := best_text(points, queue.search):
        lines.append(f"  best so far: {queue.search.objective.text} = {best}")
    lines += _worker_lines(trials, workers, n_left)
    ended = (point for point in points if point.state in (TrialState.FAIL, TrialState.PRUNED))
    return lines + [f"{e.state.name.lower()}: {_axes(e)}: {e.user_attrs.get('reason', 'unknown')}" for e in ended]


def _worker_lines(trials: Sequence[FrozenTrial], workers: Sequence[ProcessInfo], n_left: int) -> list[str]:
    """A line for each worker and for each cell whose worker is dead, and the time left."""
    lines = []
    running = {trial.user_attrs["cell"]: trial for trial in trials if trial.state == TrialState.RUNNING}
    for worker in workers if running or n_left else ():
        now = f"runs {_axes(running[worker.cell])}" if worker.cell in running else "between cells"
        lines.append(f"  {worker.id}: {worker.n_ended} cells ended, {now}")
    for cell, trial in running.items():
        if cell not in [worker.cell for worker in workers]:
            lines.append(f"  the worker of {_axes(trial)} is dead; the next worker or command requeues the cell")
    seconds = [trial.duration.total_seconds() for trial in trials if trial.state in GROUPS["done"] and trial.duration]
    if n_left and seconds and workers:
        lines.append(f"left: about {duration(sum(seconds) / len(seconds) * n_left / len(workers))}")
    elif n_left and not workers:
        lines.append("no worker is alive; repeat the sweep's command, or join with python -m src.worker sweep=NAME")
    return lines


def _title(title: str, counts: dict[str, int]) -> str:
    return f"{title}: " + ", ".join(f"{count} {name}" for name, count in counts.items())


def _axes(trial: FrozenTrial) -> str:
    return " ".join(f"{axis}={value}" for axis, value in trial.user_attrs["axes"].items())
