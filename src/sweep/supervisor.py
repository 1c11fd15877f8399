"""The supervisor of a sweep's workers: the part of the command's process while its workers run."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import closing, suppress
from typing import NoReturn

from rich.console import Console

from src import terminal
from src.errors import Interrupted
from src.interrupts import EXIT_STATUS, STOPPED
from src.locks import abort_waits_if
from src.progress import Display
from src.sweep.grid.cells import n_shares
from src.sweep.processes import Process
from src.sweep.queue.queue import WorkQueue
from src.sweep.queue.retry import StorageUnavailable
from src.sweep.work import Work, axes_text
from src.sweep.workers.local import Workers, launch
from src.sweep.workers.ray import RayWorkers
from src.sweep.workers.slurm import SlurmWorkers
from src.sweep.workers.worker import record_failed

TICK_SECONDS = 0.5
REQUEUE_SECONDS = 2.0
SIGNAL_SECONDS = 0.1
LAUNCHERS = {"local": launch, "slurm": SlurmWorkers, "ray": RayWorkers}
"""By `config.launcher.name`."""
VALID = "; the verdicts so far hold: make report"


class Supervisor:
    """Fills the queue, replaces dead workers, shows progress, and handles Ctrl-C."""

    def __init__(self, work: Work, workers: Workers, console: Console | None = None) -> None:
        self._work, self._workers = work, workers
        self._console = console or terminal.console(stderr=True)
        self._per_cell = n_shares(work.config)
        self._n_interrupts = 0

    @property
    def _stopped(self) -> str:
        return STOPPED + (VALID if self._work.in_rounds else "")

    def run(self) -> list[str] | None:
        """Runs until all cells have ended; returns a line for each that failed, None if detached workers continue."""
        handled = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
            handled.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in handled}
        abort_waits_if(lambda: self._n_interrupts > 0)
        try:
            with (
                Process(self._work.folder, "sweep", in_rounds=self._work.in_rounds) as process,
                closing(self._work.open(process)) as queue,
                Display(self._console, self._work.progress({})) as display,
            ):
                queue.retry.report = display.say
                return self._run(queue, display, alone=not process.others("sweep"))
        except Interrupted:  # while it waited for a lock
            self._console.print(self._stopped)
            sys.exit(EXIT_STATUS)
        finally:
            abort_waits_if(lambda: False)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self, queue: WorkQueue, display: Display, *, alone: bool) -> list[str] | None:
        try:
            self._requeue_stale(queue, reset_attempts=alone)
            for n_waiting in self._work.fill(queue, alone=alone):
                if self._n_interrupts:
                    break
                self._workers.keep_running(self._per_cell * n_waiting, 0)
            if self._workers.detached and self._work.progress(queue.latest()).n_open:
                return None
            return self._until_done(queue, display)
        except (StorageUnavailable, Interrupted):
            if not self._workers.detached:  # a job waits for the server by itself
                self._stop(display)
            if self._n_interrupts:
                self._exit(display)
            raise

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self._n_interrupts += 1

    def _requeue_stale(self, queue: WorkQueue, *, reset_attempts: bool = False) -> None:
        record_failed(queue, self._work.engine, queue.requeue_stale(reset_attempts=reset_attempts))

    def _until_done(self, queue: WorkQueue, display: Display) -> list[str]:
        requeued_at = time.monotonic()
        failed_before: set[object] | None = None
        while True:
            began = time.monotonic()
            trials = queue.trials()
            latest = queue.latest(trials)
            progress = self._work.progress(latest)
            if not progress.n_open and not self._n_interrupts and self._work.extend(queue):
                continue
            read_seconds = time.monotonic() - began
            failed = {key: trial for key, trial in latest.items() if trial.state.name == "FAIL"}
            failed_before = set(failed) if failed_before is None else failed_before
            for key in failed.keys() - failed_before:
                self._work.notifier.failed(
                    f"{axes_text(failed[key])}: {failed[key].user_attrs.get('reason', 'failed')}"
                )
            display.show(progress, last=not progress.n_open)
            if self._n_interrupts:
                self._stop(display)
                with suppress(StorageUnavailable, Interrupted):
                    # a worker that Ctrl-C ended while it loaded a library is no sign that its cell kills workers
                    self._requeue_stale(queue, reset_attempts=True)
                self._exit(display)
            if not progress.n_open:
                return self._work.failures(latest)
            n_ended = sum(trial.state.is_finished() for trial in trials)
            n_died = self._workers.keep_running(self._per_cell * progress.n_waiting, n_ended)
            if n_died or time.monotonic() - requeued_at > REQUEUE_SECONDS:
                self._requeue_stale(queue)
                requeued_at = time.monotonic()
            if self._workers.hopeless and progress.n_waiting:
                path = self._workers.log(0)
                lines = path.read_text(errors="replace").splitlines()[-5:] if path.exists() else ["(no log)"]
                display.say("\n".join([f"every worker died; the last lines of {path}:", *lines]))
                sys.exit(1)
            self._sleep(max(TICK_SECONDS, 4 * read_seconds))  # a long study on a server is read slowly

    def _sleep(self, seconds: float) -> None:
        """Sleeps until the next signal, which would not end `time.sleep`."""
        end = time.monotonic() + seconds
        while not self._n_interrupts and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, SIGNAL_SECONDS))

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
        display.say(self._stopped)
        sys.exit(EXIT_STATUS)
