"""What another terminal sees of a sweep, and changes while it runs.

It sees cells by state, workers, failures, and the time left. It stops a cell, or has it run next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing

from optuna.trial import FrozenTrial, TrialState

from src.errors import ConfigError
from src.progress import duration
from src.sweep.folder import SweepFolder
from src.sweep.processes import Process, ProcessInfo
from src.sweep.queue.queue import DROPPED, OPEN, WorkQueue
from src.sweep.search.trials import TrialQueue, best_text
from src.sweep.work import axes_text

GROUPS = {
    "done": (TrialState.COMPLETE, TrialState.PRUNED),
    "running": (TrialState.RUNNING,),
    "waiting": (TrialState.WAITING,),
    "failed": (TrialState.FAIL,),
}


def status_lines(folder: SweepFolder) -> list[str]:
    """The output of `python -m src.status`. Raises ConfigError where there is no such sweep."""
    folder.read_queue()  # raises ConfigError before anything is written
    lines, searches = [], folder.searches
    with Process(folder, "status") as process:
        workers, commands = process.others("worker"), process.others("sweep") or process.others("pool")
        with closing(WorkQueue(folder, process)) as queue:
            trials = [trial for trial in queue.trials() if trial.user_attrs.get("reason") != DROPPED]
            states = Counter(trial.state for trial in queue.latest(trials).values())
            counts = {name: sum(states[state] for state in group) for name, group in GROUPS.items()}
            if trials or not searches:
                lines.append(_title(folder.sweep, counts, f"{sum(counts.values())} cells"))
                lines += _worker_lines(trials, workers, counts["running"] + counts["waiting"], is_led=bool(commands))
                lines += _ended(queue.latest(trials).values(), TrialState.FAIL)
        for search_id in searches:
            with closing(TrialQueue(folder, process, search_id)) as found:
                lines += _search_lines(folder, found, workers, is_led=bool(commands))
    return lines


def _search_lines(folder: SweepFolder, queue: TrialQueue, workers: Sequence[ProcessInfo], *, is_led: bool) -> list[str]:
    trials = queue.trials()
    points = list(queue.latest(trials).values())
    n_left = max(0, queue.search.limit(folder) - sum(point.state.is_finished() for point in points))
    states = Counter(point.state for point in points)
    names = {"done": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING"}
    counts = {name: states[TrialState[state]] for name, state in names.items()} | {"left": n_left}
    n_trials = n_left + sum(point.state.is_finished() for point in points)  # those that run are left
    lines = [_title(f"{folder.sweep}, search {queue.search_id}", counts, f"{n_trials} trials")]
    if best := best_text(points, queue.search):
        lines.append(f"  {'best ' * queue.search.strategy.finds_best}so far: {queue.search.objective.text} = {best}")
    return [
        *lines,
        *_worker_lines(trials, workers, n_left, is_led=is_led),
        *_ended(points, TrialState.FAIL, TrialState.PRUNED),
    ]


def _ended(trials: Iterable[FrozenTrial], *states: TrialState) -> list[str]:
    ended = {TrialState.FAIL: "failed", TrialState.PRUNED: "pruned"}
    return [
        f"{ended[trial.state]}: {axes_text(trial)}: {trial.user_attrs.get('reason', 'unknown')}"
        for trial in trials
        if trial.state in states
    ]


def _worker_lines(
    trials: Sequence[FrozenTrial], workers: Sequence[ProcessInfo], n_left: int, *, is_led: bool
) -> list[str]:
    """A line for each worker and for each cell whose worker is dead, and the time left.

    `is_led`: a command of the sweep is alive, which starts workers.
    """
    lines = []
    running = {trial.user_attrs["cell"]: trial for trial in trials if trial.state == TrialState.RUNNING}
    for worker in workers if running or n_left else ():
        verb = "helps with" if worker.helps else "runs"
        now = f"{verb} {axes_text(running[worker.cell])}" if worker.cell in running else "between cells"
        lines.append(f"  {worker.id}: {worker.n_ended} cell{'s' * (worker.n_ended != 1)} ended, {now}")
    for cell, trial in running.items():
        if cell not in [worker.cell for worker in workers if not worker.helps]:
            lines.append(f"  the worker of {axes_text(trial)} is dead; the next worker or command requeues the cell")
    seconds = [trial.duration.total_seconds() for trial in trials if trial.state in GROUPS["done"] and trial.duration]
    if n_left and seconds and workers:
        lines.append(f"left: about {duration(sum(seconds) / len(seconds) * n_left / len(workers))}")
    elif n_left and not workers and is_led:
        lines.append("no worker is alive yet; the sweep's command is running and starts them")
    elif n_left and not workers:
        lines.append("no worker is alive; repeat the sweep's command, or join with python -m src.worker sweep=NAME")
    return lines


def _title(title: str, counts: dict[str, int], of: str) -> str:
    """The line with the counts, of which the first is that of what is done."""
    (done, n_done), *others = counts.items()
    return f"{title}: {n_done} of {of} {done}, " + ", ".join(f"{count} {name}" for name, count in others)


def stop_cell(folder: SweepFolder, cell: str) -> str:
    """Ends an open cell as failed, so that the next command tries it again; returns a line for the user."""
    with Process(folder, "status") as process, closing(WorkQueue(folder, process)) as queue:
        trial = _find(queue, "stop", cell)
        is_over = queue.stop(trial)
    when = "is stopped" if is_over else "stops at its next update; finished runs and trained stages stay"
    return f"cell {trial.user_attrs['cell']} ({axes_text(trial)}) {when}; the sweep's command tries it again"


def run_next(folder: SweepFolder, cell: str) -> str:
    """Puts a waiting cell before all others; returns a line for the user."""
    with Process(folder, "status") as process, closing(WorkQueue(folder, process)) as queue:
        trial = _find(queue, "first", cell)
        queue.put_first(trial)
    return f"cell {trial.user_attrs['cell']} ({axes_text(trial)}) is the next that a worker takes"


def _find(queue: WorkQueue, key: str, cell: str) -> FrozenTrial:
    """The open trial of the grid's cell whose hash begins with `cell`."""
    trials = {trial.user_attrs["cell"]: trial for trial in queue.trials(*OPEN)}
    found = [trial for cell_hash, trial in trials.items() if cell_hash.startswith(cell)] if cell else []
    if len(found) != 1:
        problem = "no cell of the grid that runs or waits has a hash that begins so"
        if found:
            problem = f"{len(found)} cells of the grid that run or wait have a hash that begins so; write more of it"
        several = ", ".join(trial.user_attrs["cell"] for trial in found[:4])
        waiting = "; ".join(f"{cell_hash} {axes_text(trial)}" for cell_hash, trial in list(trials.items())[:4])
        hint = several or f"there are: {waiting}" if trials else "the grid has none"
        raise ConfigError(key, cell, f"{problem}; {hint}")
    return found[0]
