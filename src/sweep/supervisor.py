"""The supervisor of a sweep's workers: the part of the command's process while its workers run."""

from __future__ import annotations

import signal
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import NoReturn

from rich.console import Console

from src.config import Config
from src.sweep.engine import Engine
from src.sweep.folder import SweepFolder
from src.sweep.grid.plan import Plan
from src.sweep.processes import Process
from src.sweep.progress import Display, SweepProgress
from src.sweep.queue.queue import WorkQueue
from src.sweep.queue.retry import StorageUnavailable
from src.sweep.workers.local import Workers
from src.sweep.workers.worker import record_failed

TICK_SECONDS = 0.5
REQUEUE_SECONDS = 2.0
CHUNK = 50
"""Cells that are queued at once; workers start on the first chunk of a long grid."""

OPEN = ("WAITING", "RUNNING")


class Supervisor(ABC):
    """Fills the queue, replaces dead workers, shows progress, and handles Ctrl-C."""

    def __init__(self, folder: SweepFolder, engine: Engine, workers: Workers, console: Console) -> None:
        self._folder, self._engine = folder, engine
        self._workers, self._console = workers, console
        self._n_interrupts = 0
        self.detached = False
        """After `run`: whether detached workers continue with open cells."""

    @abstractmethod
    def open(self, process: Process) -> WorkQueue:
        """Opens the queue."""

    @abstractmethod
    def fill(self, queue: WorkQueue, *, alone: bool) -> None:
        """Fills the queue and starts workers. `alone`: whether no other command of this sweep is alive."""

    @abstractmethod
    def states(self, queue: WorkQueue) -> Mapping[str, str]:
        """The states of the trials that this command waits for, by any key."""

    @abstractmethod
    def progress(self, states: Mapping[str, str]) -> SweepProgress:
        """The progress to show."""

    @abstractmethod
    def failures(self, queue: WorkQueue) -> dict[str, str]:
        """The reasons of failed trials, by the same keys."""

    def run(self) -> dict[str, str]:
        """Runs until all trials have ended and returns the failures; detached workers are only started."""
        handled = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
            handled.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in handled}
        try:
            with (
                Process(self._folder, "sweep") as process,
                closing(self.open(process)) as queue,
                Display(self._console, self.progress({})) as display,
            ):
                queue.retry.report = display.say
                queue.retry.should_abort = lambda: self._n_interrupts > 0
                return self._run(queue, display, alone=not process.others("sweep"))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self, queue: WorkQueue, display: Display, *, alone: bool) -> dict[str, str]:
        try:
            self._requeue_stale(queue, reset_attempts=alone)
            self.fill(queue, alone=alone)
            self.detached = self._workers.detached and any(state in OPEN for state in self.states(queue).values())
            return {} if self.detached else self._until_done(queue, display)
        except StorageUnavailable:
            if not self._workers.detached:  # a job waits for the server by itself
                self._stop(display)
            if self._n_interrupts:
                self._exit(display)
            raise

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self._n_interrupts += 1

    def _requeue_stale(self, queue: WorkQueue, *, reset_attempts: bool = False) -> None:
        record_failed(queue, self._engine, queue.requeue_stale(reset_attempts=reset_attempts))

    def _until_done(self, queue: WorkQueue, display: Display) -> dict[str, str]:
        requeued_at = time.monotonic()
        while True:
            began = time.monotonic()
            states = self.states(queue)
            n_ended = sum(state not in OPEN for state in states.values())
            display.show(self.progress(states), last=n_ended == len(states))
            if self._n_interrupts:
                self._stop(display)
                with suppress(StorageUnavailable):
                    self._requeue_stale(queue)
                self._exit(display)
            if n_ended == len(states):
                return self.failures(queue)
            n_waiting = sum(state == "WAITING" for state in states.values())
            n_died = self._workers.keep_running(n_waiting, queue.n_ended())
            if n_died or time.monotonic() - requeued_at > REQUEUE_SECONDS:
                self._requeue_stale(queue)
                requeued_at = time.monotonic()
            if self._workers.hopeless and n_waiting:
                display.say(f"every worker died; the last lines of {self._workers.log(0)}:\n{self._last_lines()}")
                sys.exit(1)
            time.sleep(max(TICK_SECONDS, 4 * (time.monotonic() - began)))  # a long study on a server is read slowly

    def _stop(self, display: Display) -> None:
        """Waits until the workers have exited, or kills them on a further Ctrl-C."""
        n_before = self._n_interrupts
        self._workers.interrupt()
        again = " again" if n_before else ""
        display.say(f"stopping: the workers save their progress; Ctrl-C{again} ends them now")
        while not self._workers.wait(TICK_SECONDS):
            if self._n_interrupts > n_before:
                self._workers.kill()
                self._workers.wait(TICK_SECONDS)
                break

    def _exit(self, display: Display) -> NoReturn:
        display.say("stopped; the same command continues from here")
        sys.exit(130)

    def _last_lines(self) -> str:
        path = self._workers.log(0)
        return "\n".join(path.read_text(errors="replace").splitlines()[-5:]) if path.exists() else "(no log)"


class GridSupervisor(Supervisor):
    """Supervises the cells of a plan. `verdict`: the winner of a finished cell, for the running count."""

    def __init__(
        self,
        plan: Plan,
        folder: SweepFolder,
        engine: Engine,
        workers: Workers,
        console: Console,
        verdict: Callable[[str], str | None] | None = None,
    ) -> None:
        super().__init__(folder, engine, workers, console)
        self._plan, self._verdict = plan, verdict
        self._queued: set[str] = set()
        self._verdicts: Counter[str] = Counter()
        self._judged: set[str] = set()

    def open(self, process: Process) -> WorkQueue:
        return WorkQueue(self._folder, process, self._folder.write_queue(self._plan.config.storage))

    def fill(self, queue: WorkQueue, *, alone: bool) -> None:
        """Queues the cells with missing runs; workers start after the first chunk."""
        missing = list(self._plan.missing.items())
        if alone:
            queue.drop_waiting(self._plan.missing.keys())
        parameters = queue.parameters(list(self._plan.cells.values()))
        for start in range(0, len(missing), CHUNK):
            if self._n_interrupts:
                return
            chunk = missing[start : start + CHUNK]
            queue.enqueue(chunk, parameters, alone=alone)
            self._queued |= {cell_hash for cell_hash, _ in chunk}
            self._workers.keep_running(len(self._queued), 0)

    def states(self, queue: WorkQueue) -> dict[str, str]:
        """By the hashes of the queued cells."""
        return {cell_hash: state for cell_hash, state in queue.states().items() if cell_hash in self._queued}

    def failures(self, queue: WorkQueue) -> dict[str, str]:
        last = {trial.user_attrs["cell"]: trial for trial in queue.trials()}
        return {
            cell_hash: trial.user_attrs.get("reason", "failed")
            for cell_hash, trial in last.items()
            if cell_hash in self._queued and trial.state.name == "FAIL"
        }

    def progress(self, states: Mapping[str, str]) -> SweepProgress:
        if self._verdict is not None and self._queued:
            self._count_verdicts(states, self._verdict)
        cells, n_missing = self._plan.cells, self._plan.n_missing
        done = [key for key in cells if not n_missing[key] or states.get(key) in ("COMPLETE", "PRUNED")]
        n_done = {key: cell.n_runs - n_missing[key] for key, cell in cells.items()}
        for key in (key for key, state in states.items() if state == "RUNNING"):
            n_results = sum(1 for _ in self._folder.cell(key).glob("*/result.json"))
            n_done[key] = max(n_done[key], min(n_results, cells[key].n_runs))
        n_done |= {key: cells[key].n_runs for key in done}
        counts = Counter(states.values())
        return SweepProgress(
            n_cells=len(cells),
            n_cells_done=len(done),
            n_runs=self._plan.n_runs,
            n_runs_done=sum(n_done.values()),
            n_running=counts["RUNNING"],
            n_failed=counts["FAIL"],
            verdicts=self._verdicts,
        )

    def _count_verdicts(self, states: Mapping[str, str], verdict_of: Callable[[str], str | None]) -> None:
        """Counts the winners of newly finished cells."""
        for cell_hash in self._plan.cells:
            done = not self._plan.n_missing[cell_hash] or states.get(cell_hash) == "COMPLETE"
            if done and cell_hash not in self._judged:
                self._judged.add(cell_hash)
                if (verdict := verdict_of(cell_hash)) is not None:
                    self._verdicts[verdict] += 1


def report_detached(config: Config, console: Console) -> None:
    """The last lines of a command whose workers continue without it."""
    console.print(f"the workers continue: python -m src.status sweep={config.sweep} shows their progress")
    console.print("repeat the command for the table once all cells are done", soft_wrap=True)
