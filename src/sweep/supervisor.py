"""The parent's part of a sweep while its workers run."""

from __future__ import annotations

import signal
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn

from rich.console import Console

from src.sweep.engine import Engine
from src.sweep.folder import SweepFolder
from src.sweep.grid.plan import Plan
from src.sweep.processes import Member
from src.sweep.progress import Display, Standing
from src.sweep.queue.queue import WorkQueue
from src.sweep.queue.retry import StorageAway
from src.sweep.workers.local import Workers
from src.sweep.workers.worker import give_up_dead

TICK_SECONDS = 0.5
TAKE_UP_SECONDS = 2.0
ENQUEUED_AT_ONCE = 50
"""Cells per turn at the queue's lock, so that workers already running need not wait for a long grid."""


class Watch(ABC):
    """The parent's part while workers run: fills the queue, replaces dead workers, shows progress, obeys Ctrl-C."""

    def __init__(self, folder: SweepFolder, engine: Engine, workers: Workers, console: Console) -> None:
        self._folder, self._engine = folder, engine
        self._workers, self._console = workers, console
        self._n_interrupts = 0
        self.left_alone = False
        """After `run`: whether detached workers go on with what is left."""

    @abstractmethod
    def open(self, member: Member) -> WorkQueue:
        """The queue to be worked on."""

    @abstractmethod
    def fill(self, queue: WorkQueue, *, alone: bool) -> None:
        """Prepares the queue and starts workers. `alone`: no other command of this sweep lives."""

    @abstractmethod
    def states(self, queue: WorkQueue) -> Mapping[str, str]:
        """The state of everything that this command waits for, by any name."""

    @abstractmethod
    def standing(self, states: Mapping[str, str]) -> Standing:
        """How far it is, to be shown."""

    @abstractmethod
    def failures(self, queue: WorkQueue) -> dict[str, str]:
        """At the end: why what failed did, by the same names."""

    def run(self) -> dict[str, str]:
        """Runs until nothing is left; returns the failures. Workers that are detached are only given their work."""
        handled = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup a closed terminal is to be survived
            handled.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in handled}
        try:
            with Member(self._folder, "sweep") as member:
                queue = self.open(member)
                try:
                    with Display(self._console, self.standing({})) as display:
                        queue.patience.say, queue.patience.hurried = display.say, lambda: self._n_interrupts > 0
                        return self._run(queue, display, alone=not member.others("sweep"))
                finally:
                    queue.close()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self, queue: WorkQueue, display: Display, *, alone: bool) -> dict[str, str]:
        try:
            queue.take_up_dead(forgive=alone)
            self.fill(queue, alone=alone)
            self.left_alone = self._workers.detached and self._is_open(queue)
            return {} if self.left_alone else self._until_done(queue, display)
        except StorageAway:
            if not self._workers.detached:  # a job waits for the server by itself
                self._stop(display)
            if self._n_interrupts:
                self._leave(display)
            raise

    def _is_open(self, queue: WorkQueue) -> bool:
        return any(state in ("WAITING", "RUNNING") for state in self.states(queue).values())

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self._n_interrupts += 1

    def _until_done(self, queue: WorkQueue, display: Display) -> dict[str, str]:
        taken_up = time.monotonic()
        while True:
            mine = self.states(queue)
            n_ended = sum(state not in ("WAITING", "RUNNING") for state in mine.values())
            display.show(self.standing(mine), last=n_ended == len(mine))
            if self._n_interrupts:
                self._stop(display)
                with suppress(StorageAway):
                    give_up_dead(queue, self._engine)
                self._leave(display)
            if n_ended == len(mine):
                return self.failures(queue)
            n_waiting = sum(state == "WAITING" for state in mine.values())
            n_died = self._workers.keep_running(n_waiting, queue.n_ended())
            if n_died or time.monotonic() - taken_up > TAKE_UP_SECONDS:
                give_up_dead(queue, self._engine)
                taken_up = time.monotonic()
            if self._workers.hopeless and n_waiting:
                display.say(f"no worker survives; the last lines of {self._workers.log(0)}:\n{self._last_lines()}")
                sys.exit(1)
            time.sleep(TICK_SECONDS)

    def _stop(self, display: Display) -> None:
        """Has the workers leave in good order, or at once where Ctrl-C is heard again."""
        n_heard = self._n_interrupts
        self._workers.interrupt()
        again = " again" if n_heard else ""
        display.say(f"stopping: the workers keep how far they have come; Ctrl-C{again} ends them now")
        while not self._workers.wait(TICK_SECONDS):
            if self._n_interrupts > n_heard:
                self._workers.kill()
                self._workers.wait(TICK_SECONDS)
                break

    def _leave(self, display: Display) -> NoReturn:
        display.say("stopped; the same command continues where this one ended")
        sys.exit(130)

    def _last_lines(self) -> str:
        path = self._workers.log(0)
        return "\n".join(path.read_text(errors="replace").splitlines()[-5:]) if path.exists() else "(no log)"


class CellsWatch(Watch):
    """The cells of a plan. `verdict`: who wins a finished cell, for the running count."""

    def __init__(
        self,
        plan: Plan,
        folder: SweepFolder,
        engine: Engine,
        engine_name: str,
        workers: Workers,
        console: Console,
        verdict: Callable[[str], str | None] | None = None,
    ) -> None:
        super().__init__(folder, engine, workers, console)
        self._plan, self._engine_name, self._verdict = plan, engine_name, verdict
        self._trials: dict[str, int] = {}
        self._verdicts: Counter[str] = Counter()
        self._judged: set[str] = set()

    def open(self, member: Member) -> WorkQueue:
        about = self._folder.write_queue(self._plan.config.storage, self._engine_name)
        return WorkQueue(self._folder, member, about)

    def fill(self, queue: WorkQueue, *, alone: bool) -> None:
        """Queues the cells that lack runs; workers start as soon as there is something for them."""
        missing = list(self._plan.missing.items())
        if alone:
            queue.forget([cell_hash for cell_hash, _ in missing])
        distributions = queue.distributions()
        distributions.prepare(cell.axes for cell in self._plan.cells.values())
        for start in range(0, len(missing), ENQUEUED_AT_ONCE):
            if self._n_interrupts:
                return
            chunk = missing[start : start + ENQUEUED_AT_ONCE]
            self._trials |= queue.enqueue(chunk, distributions, alone=alone)
            self._workers.keep_running(len(self._trials), 0)

    def states(self, queue: WorkQueue) -> dict[str, str]:
        """By the hashes of the cells that lack runs."""
        states = queue.states()
        return {cell_hash: states[trial] for cell_hash, trial in self._trials.items()}

    def failures(self, queue: WorkQueue) -> dict[str, str]:
        by_trial = {entry.trial_id: entry for entry in queue.entries("FAIL")}
        return {
            cell_hash: by_trial[trial].reason or "failed"
            for cell_hash, trial in self._trials.items()
            if trial in by_trial
        }

    def standing(self, states: Mapping[str, str]) -> Standing:
        if self._verdict is not None and self._trials:
            self._judge(states, self._verdict)
        inside = self._n_runs_inside(states)
        n_cells_done = n_runs_done = 0
        for cell_hash, cell in self._plan.cells.items():
            n_missing = self._plan.n_missing[cell_hash]
            done = not n_missing or states.get(cell_hash) in ("COMPLETE", "PRUNED")
            n_cells_done += done
            n_so_far = max(cell.n_runs - n_missing, min(inside.get(cell_hash, 0), cell.n_runs))
            n_runs_done += cell.n_runs if done else n_so_far
        return Standing(
            n_cells=len(self._plan.cells),
            n_cells_done=n_cells_done,
            n_runs=self._plan.n_runs,
            n_runs_done=n_runs_done,
            n_running=sum(state == "RUNNING" for state in states.values()),
            n_failed=sum(state == "FAIL" for state in states.values()),
            verdicts=self._verdicts,
        )

    def _judge(self, states: Mapping[str, str], verdict_of: Callable[[str], str | None]) -> None:
        """Counts the winners of the cells that are newly done."""
        for cell_hash in self._plan.cells:
            done = not self._plan.n_missing[cell_hash] or states.get(cell_hash) == "COMPLETE"
            if done and cell_hash not in self._judged:
                self._judged.add(cell_hash)
                verdict = verdict_of(cell_hash)
                if verdict is not None:
                    self._verdicts[verdict] += 1

    def _n_runs_inside(self, states: Mapping[str, str]) -> dict[str, int]:
        """Runs that are done in the cells that are under way."""
        return {
            cell_hash: sum(1 for _ in self._folder.cell(cell_hash).glob("*/result.json"))
            for cell_hash, state in states.items()
            if state == "RUNNING"
        }
