"""A sweep as it stands, seen from another terminal: by state, by worker, and how long the rest may take."""

from __future__ import annotations

from collections import Counter

from optuna.trial import FrozenTrial, TrialState

from src.sweeping.folder import SweepFolder
from src.sweeping.members import Member
from src.sweeping.progress import duration
from src.sweeping.queue import DROPPED, WorkQueue

GROUPS = {
    "done": (TrialState.COMPLETE, TrialState.PRUNED),
    "running": (TrialState.RUNNING,),
    "waiting": (TrialState.WAITING,),
    "failed": (TrialState.FAIL,),
}


def status_lines(folder: SweepFolder) -> list[str]:
    """What `python -m src.status` prints. Raises ConfigError where there is no such sweep."""
    about = folder.read_queue()
    with Member(folder, "status") as member:
        queue = WorkQueue(folder, member, about["storage"], about["id"])
        try:
            trials = [trial for trial in queue.trials() if trial.user_attrs.get("reason") != DROPPED]
        finally:
            queue.close()
        workers = [other["id"] for other in member.others("worker")]
    latest = {trial.user_attrs["cell"]: trial for trial in trials}  # the last trial of a cell says how it stands
    counts = {name: sum(t.state in states for t in latest.values()) for name, states in GROUPS.items()}
    lines = [f"{folder.sweep}: " + ", ".join(f"{count} {name}" for name, count in counts.items())]
    ended = Counter(trial.user_attrs.get("worker") for trial in trials if trial.state.is_finished())
    running = {trial.user_attrs.get("worker"): trial for trial in trials if trial.state == TrialState.RUNNING}
    for worker in workers:
        now = f"runs {_axes(running[worker])}" if worker in running else "between cells"
        lines.append(f"  {worker}: {ended[worker]} cells ended, {now}")
    for worker, trial in running.items():
        if worker not in workers:
            lines.append(f"  {worker}: gone; its cell {_axes(trial)} is taken up again by the next worker or command")
    took = [trial.duration.total_seconds() for trial in trials if trial.state in GROUPS["done"] and trial.duration]
    n_left = counts["running"] + counts["waiting"]
    if n_left and took and workers:
        lines.append(f"left: about {duration(sum(took) / len(took) * n_left / len(workers))}")
    elif n_left and not workers:
        lines.append("no worker is alive; the same sweep command continues, or python -m src.worker joins")
    failed = (trial for trial in latest.values() if trial.state == TrialState.FAIL)
    return lines + [f"failed: {_axes(trial)}: {trial.user_attrs.get('reason', 'unknown')}" for trial in failed]


def _axes(trial: FrozenTrial) -> str:
    return " ".join(f"{axis}={value}" for axis, value in trial.user_attrs["axes"].items())
