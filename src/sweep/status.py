"""A sweep as it stands, seen from another terminal: by state, by worker, and how long the rest may take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from src.sweep.folder import SweepFolder, searches_of
from src.sweep.processes import Member
from src.sweep.progress import duration
from src.sweep.queue.queue import DROPPED, WorkQueue
from src.sweep.search.command import best_text
from src.sweep.search.trials import TrialQueue, latest

GROUPS = {
    "done": (TrialState.COMPLETE, TrialState.PRUNED),
    "running": (TrialState.RUNNING,),
    "waiting": (TrialState.WAITING,),
    "failed": (TrialState.FAIL,),
}


def status_lines(folder: SweepFolder) -> list[str]:
    """What `python -m src.status` prints. Raises ConfigError where there is no such sweep."""
    about = folder.read_queue()
    lines = []
    with Member(folder, "status") as member:
        workers = [other["id"] for other in member.others("worker")]
        queue = WorkQueue(folder, member, about)
        try:
            trials = [trial for trial in queue.trials() if trial.user_attrs.get("reason") != DROPPED]
        finally:
            queue.close()
        searches = searches_of(folder)
        if trials or not searches:
            lines += _cells(folder.sweep, trials, workers)
        for search_id in searches:
            found = TrialQueue(folder, member, about, search_id)
            try:
                lines += _trials(f"{folder.sweep}, search {search_id}", found, workers)
            finally:
                found.close()
    return lines


def _cells(title: str, trials: Sequence[FrozenTrial], workers: Sequence[str]) -> list[str]:
    """The cells that commands have listed."""
    by_cell = {trial.user_attrs["cell"]: trial for trial in trials}  # the last trial of a cell says how it stands
    counts = {name: sum(t.state in states for t in by_cell.values()) for name, states in GROUPS.items()}
    lines = [f"{title}: " + ", ".join(f"{count} {name}" for name, count in counts.items())]
    lines += _at_work(trials, workers, counts["running"] + counts["waiting"])
    failed = (trial for trial in by_cell.values() if trial.state == TrialState.FAIL)
    return lines + [f"failed: {_axes(trial)}: {trial.user_attrs.get('reason', 'unknown')}" for trial in failed]


def _trials(title: str, queue: TrialQueue, workers: Sequence[str]) -> list[str]:
    """The points of a search."""
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
    lines = [f"{title}: " + ", ".join(f"{count} {name}" for name, count in counts.items())]
    if best := best_text(points, queue.search):
        lines.append(f"  best so far: {queue.search.objective.text} = {best}")
    lines += _at_work(trials, workers, n_left)
    ended = (point for point in points if point.state in (TrialState.FAIL, TrialState.PRUNED))
    return lines + [f"{e.state.name.lower()}: {_axes(e)}: {e.user_attrs.get('reason', 'unknown')}" for e in ended]


def _at_work(trials: Sequence[FrozenTrial], workers: Sequence[str], n_left: int) -> list[str]:
    """What each worker does, and how long the rest may take."""
    lines = []
    ended = Counter(trial.user_attrs.get("worker") for trial in trials if trial.state.is_finished())
    running = {str(trial.user_attrs.get("worker")): trial for trial in trials if trial.state == TrialState.RUNNING}
    for worker in workers if running or n_left else ():
        now = f"runs {_axes(running[worker])}" if worker in running else "between cells"
        lines.append(f"  {worker}: {ended[worker]} cells ended, {now}")
    for worker, trial in running.items():
        if worker not in workers:
            lines.append(f"  {worker}: gone; its cell {_axes(trial)} is taken up again by the next worker or command")
    took = [trial.duration.total_seconds() for trial in trials if trial.state in GROUPS["done"] and trial.duration]
    if n_left and took and workers:
        lines.append(f"left: about {duration(sum(took) / len(took) * n_left / len(workers))}")
    elif n_left and not workers:
        lines.append("no worker is alive; the same sweep command continues, or python -m src.worker sweep=NAME joins")
    return lines


def _axes(trial: FrozenTrial) -> str:
    return " ".join(f"{axis}={value}" for axis, value in trial.user_attrs["axes"].items())
