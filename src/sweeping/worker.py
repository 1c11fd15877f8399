"""A worker: claim a cell, run it, tell; until nothing waits or it is asked to stop."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from pathlib import Path

from filelock import FileLock, Timeout

from src.sweeping.engine import Engine, Interrupted, load_engine
from src.sweeping.folder import SweepFolder
from src.sweeping.members import Member
from src.sweeping.queue import Claim, WorkQueue

PARENT_VARIABLE = "SWEEP_PARENT_PID"
"""Set by the launcher: a worker whose parent is gone finishes its run and leaves."""

ONE_THREAD = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""Read by the libraries when they load: workers divide the processors among themselves (`trainer.threads` raises it)."""

IDLE_SECONDS = 0.5

log = logging.getLogger(__name__)


class StopRequest:
    """Ctrl-C, SIGTERM or a vanished parent: once, the current run is finished and the cell given back; twice, now."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        parent = os.environ.get(PARENT_VARIABLE)
        self._parent = int(parent) if parent else None

    def listen(self) -> None:
        """Takes over the signals of this process."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        if self._asked.is_set():
            os._exit(128 + number)
        self._asked.set()

    def is_set(self) -> bool:
        """Whether to stop."""
        if self._parent is not None and os.getppid() != self._parent:
            self._asked.set()
        return self._asked.is_set()


def work(folder: SweepFolder) -> int:
    """Works on the sweep until nothing is left for this worker; returns how many cells it ended."""
    for variable in ONE_THREAD:
        os.environ.setdefault(variable, "1")
    about = folder.read_queue()
    stop = StopRequest()
    stop.listen()
    with Member(folder, "worker") as member:
        queue = WorkQueue(folder, member, about["storage"], about["id"])
        engine = load_engine(about["engine"])
        n_ended = 0
        try:
            while not stop.is_set():
                claim = queue.claim()
                if claim is not None:
                    n_ended += _run(claim, folder, queue, engine, stop)
                elif not _wait_for_more(folder, queue, engine):
                    break
        finally:
            queue.close()
    return n_ended


def give_up_dead(folder: SweepFolder, queue: WorkQueue, engine: Engine) -> None:
    """Takes up what dead workers left, and records as failed what killed too many of them."""
    for claim in queue.take_up_dead():
        reason = next(e.reason for e in queue.entries("FAIL") if e.trial_id == claim.trial_id)
        engine.record_failure(folder.read_cell(claim.cell), reason or "")


def _wait_for_more(folder: SweepFolder, queue: WorkQueue, engine: Engine) -> bool:
    """Whether a cell may come free: one that another worker runs with fewer seeds, or that a dead one left."""
    give_up_dead(folder, queue, engine)
    if not queue.entries("WAITING", limit=1):
        return False
    time.sleep(IDLE_SECONDS)
    return True


def _run(claim: Claim, folder: SweepFolder, queue: WorkQueue, engine: Engine, stop: StopRequest) -> bool:
    """Runs one claimed cell; whether it ended here."""

    def on_run(run: Path) -> None:
        log.info("finished %s", run.name)
        on_stage()

    def on_stage() -> None:
        if stop.is_set():
            raise Interrupted

    # The queue hands a cell to one worker; this lock also keeps out a worker of another queue on the same folder.
    lock = FileLock(folder.cell(claim.cell) / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        queue.requeue(claim)
        time.sleep(IDLE_SECONDS)
        return False
    start = time.monotonic()
    try:
        outcome = engine.run_cell(folder.read_cell(claim.cell), on_run=on_run, on_stage=on_stage)
    except Interrupted:
        queue.requeue(claim)
        log.info("cell %s: interrupted and given back", claim.cell)
        return False
    except Exception as error:
        log.exception("cell %s failed", claim.cell)
        queue.fail(claim, f"{type(error).__name__}: {' '.join(str(error).split())}")
        return True
    else:
        if outcome.failures:
            others = len(outcome.failures) - 1
            queue.fail(claim, outcome.failures[0] + (f" (and {others} more)" if others else ""))
        elif outcome.value is None or not math.isfinite(outcome.value):
            queue.complete_without_value(claim, "inconclusive")
        else:
            queue.complete(claim, outcome.value)
        log.info("cell %s: done in %.1f s", claim.cell, time.monotonic() - start)
        return True
    finally:
        lock.release()
