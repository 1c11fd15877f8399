"""The work of one command: the cells that it waits for, how it queues them, and what it shows and reports of them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from src.axes import axis_text
from src.cells.resolve import ResolvedCell
from src.comparison.families import declare
from src.config import Config
from src.progress import SweepProgress
from src.sweep.engine import Engine, Report
from src.sweep.folder import GRID, SweepFolder
from src.sweep.grid.cells import labels_of
from src.sweep.grid.plan import SweepPlan, describe
from src.sweep.notify import Notifier
from src.sweep.processes import Process

if TYPE_CHECKING:  # loads Optuna, which a finished grid does without
    from optuna.trial import FrozenTrial

    from src.sweep.queue.queue import WorkQueue

CHUNK = 50
"""Cells that are queued at once; workers start on the first chunk of a long grid."""

JUDGING_SECONDS = 0.5
"""Longest time for verdicts between two looks at the queue and at signals."""

Trials = Mapping[str, "FrozenTrial"]
"""The last trial of each piece of work; see `WorkQueue.latest`."""


class Work(ABC):
    """The work of one command: a grid or a search. `config` has the settings of the whole sweep."""

    search_id = GRID
    kind = "cell"
    in_rounds = False
    """Whether `extend` may queue more, so that idle workers wait for it."""

    def __init__(self, config: Config, engine: Engine) -> None:
        self.config, self.engine = config, engine
        self.folder = SweepFolder(Path(config.multirun), config.sweep)
        self.notifier = Notifier(None, config.sweep)
        self.verdict: Callable[[str], str | None] = lambda _: None
        """The winner of a finished cell, for the running count."""

    @abstractmethod
    def is_finished(self) -> bool:
        """Whether no cell has to be queued."""

    def declare(self) -> None:
        """Declares the comparisons of the command, before its first run; a search explores and declares none."""

    @abstractmethod
    def description(self, n_workers: int) -> list[str]:
        """The output of a dry run."""

    @abstractmethod
    def open(self, process: Process) -> WorkQueue:
        """Opens the queue."""

    @abstractmethod
    def fill(self, queue: WorkQueue, *, alone: bool) -> Iterator[int]:
        """Fills the queue in steps; yields how much waits. `alone`: whether no other command of this sweep is alive."""

    def extend(self, queue: WorkQueue) -> bool:
        """Queues what the results so far call for, once nothing is open; returns whether there was anything."""
        del queue
        return False

    @abstractmethod
    def progress(self, trials: Trials) -> SweepProgress:
        """The progress of this command."""

    @abstractmethod
    def cells(self) -> list[ResolvedCell]:
        """The cells: those of a search that are known by now."""

    @property
    @abstractmethod
    def report(self) -> Report:
        """Writes the end-of-command summary."""

    def failures(self, trials: Trials) -> list[str]:
        """One line for each cell that failed."""
        return [
            f"{self.kind} {key} ({axes_text(trial)}): {trial.user_attrs.get('reason', 'failed')}"
            for key, trial in trials.items()
            if trial.state.name == "FAIL"
        ]


class GridWork(Work):
    """The cells of a plan that lack runs."""

    def __init__(self, plan: SweepPlan, engine: Engine) -> None:
        super().__init__(plan.config, engine)
        self._plan = plan
        self._queued: set[str] = set()
        self._winners: dict[str, str | None] = {}

    def is_finished(self) -> bool:
        return not self._plan.missing

    def declare(self) -> None:
        cells, config = self._plan.cells, self.config
        labels = labels_of(cell.config for cell in cells.values())
        declare(self.folder.root, cells, labels, config.baseline, config.seeds, margin=config.margin)

    def description(self, n_workers: int) -> list[str]:
        return describe(self._plan, self.folder.root / "cells", n_workers)

    def open(self, process: Process) -> WorkQueue:
        from src.sweep.queue.queue import WorkQueue

        self.folder.write_queue(self.config.storage)
        return WorkQueue(self.folder, process)

    def fill(self, queue: WorkQueue, *, alone: bool) -> Iterator[int]:
        missing = list(self._plan.missing.items())
        if alone:
            queue.drop_waiting(self._plan.missing.keys())
        parameters = queue.parameters(list(self._plan.cells.values()))
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            queue.enqueue(chunk, parameters, alone=alone)
            self._queued |= {cell_hash for cell_hash, _ in chunk}
            yield len(self._queued)

    def progress(self, trials: Trials) -> SweepProgress:
        cells, n_missing = self._plan.cells, self._plan.n_missing
        states = {key: trial.state.name for key, trial in trials.items() if key in self._queued}
        done = [key for key in cells if not n_missing[key] or states.get(key) in ("COMPLETE", "PRUNED")]
        if self._queued:
            self._judge(done)
        n_done = {key: cell.n_runs - n_missing[key] for key, cell in cells.items()}
        for key in (key for key, state in states.items() if state == "RUNNING"):
            n_results = sum(1 for _ in self.folder.cell(key).glob("*/result.json"))
            n_done[key] = max(n_done[key], min(n_results, cells[key].n_runs))
        n_done |= {key: cells[key].n_runs for key in done}
        n_runs_done, counts = sum(n_done.values()), Counter(states.values())
        return SweepProgress(
            n=self._plan.n_runs,
            n_done=n_runs_done,
            n_open=counts["WAITING"] + counts["RUNNING"],
            n_waiting=counts["WAITING"],
            counts=[
                f"cells {len(done)}/{len(cells)}",
                f"runs {n_runs_done}/{self._plan.n_runs}",
                *(f"{name} {n}" for name, n in (("running", counts["RUNNING"]), ("failed", counts["FAIL"])) if n),
            ],
            result=so_far(winner for winner in self._winners.values() if winner is not None),
        )

    def _judge(self, done: Iterable[str]) -> None:
        """Judges finished cells for at most `JUDGING_SECONDS`; the next call continues."""
        until = time.monotonic() + JUDGING_SECONDS
        for key in done:
            if key not in self._winners:
                self._winners[key] = self.verdict(key)
                if time.monotonic() > until:
                    return

    def cells(self) -> list[ResolvedCell]:
        return list(self._plan.resolved.values())

    @property
    def report(self) -> Report:
        from src.sweep.summary import report

        return report

    def failures(self, trials: Trials) -> list[str]:
        mine = {key: trial for key, trial in trials.items() if key in self._queued}
        lacking = {
            key: len(self._plan.resolved[key].unwritten_runs()) for key, t in mine.items() if t.state.name != "FAIL"
        }
        return super().failures(mine) + [
            f"cell {key} ({axes_text(mine[key])}): {n} runs have no result, though their worker reported none as failed"
            for key, n in lacking.items()
            if n
        ]


def so_far(winners: Iterable[str]) -> str:
    """``so far combined 15, sequential 1``; nothing while there is no winner."""
    counts = Counter(sorted(winners))
    return "so far " + ", ".join(f"{name} {n}" for name, n in counts.items()) if counts else ""


def axes_text(trial: FrozenTrial) -> str:
    """The coordinates of a trial's cell, ``key=value`` each."""
    return " ".join(f"{axis}={axis_text(value)}" for axis, value in trial.user_attrs["axes"].items())
