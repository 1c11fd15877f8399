"""A worker: claim a cell, run it, tell; until nothing waits or it is asked to stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from src.errors import ConfigError, Interrupted, Pruned
from src.sweep.engine import Engine, Outcome, load_engine
from src.sweep.folder import GRID, SweepFolder, searches_of
from src.sweep.processes import Member
from src.sweep.queue.queue import Claim, WorkQueue
from src.sweep.queue.retry import StorageAway
from src.sweep.workers.compatibility import refuse_other_code
from src.sweep.workers.gpus import MASK
from src.sweep.workers.leases import Devices
from src.sweep.workers.torchrun import GroupFailed, run_group
from src.training.control import OnProgress, ProgressReport, RunControl

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
        signal.signal(signal.SIGUSR2, self._on_warning)

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        if self._asked.is_set():
            os._exit(128 + number)
        self._asked.set()

    def _on_warning(self, number: int, frame: object) -> None:
        """Slurm says that time is up soon, to every process of a job: it never ends anything by itself."""
        del number, frame
        self._asked.set()

    def is_set(self) -> bool:
        """Whether to stop."""
        if self._parent is not None and os.getppid() != self._parent:
            self._asked.set()
        return self._asked.is_set()


def work(folder: SweepFolder, search: str | None = None) -> int:
    """Works on the sweep until nothing is left for this worker; returns how many cells it ended.

    `search`: the id of the search to work on, `GRID` for cells that a command listed; without it all of the sweep's.
    """
    for variable in ONE_THREAD:
        os.environ.setdefault(variable, "1")
    about = folder.read_queue()
    stop = StopRequest()
    stop.listen()
    refuse_other_code(folder.sweep, about)
    with Member(folder, "worker") as member:
        worker = Worker(folder, member, about["engine"], stop)
        n_ended = 0
        for queue in queues_of(folder, member, about, search):
            try:
                n_ended += worker.work(queue)
            finally:
                queue.close()
            if stop.is_set():
                break
    return n_ended


def queues_of(folder: SweepFolder, member: Member, about: Mapping[str, Any], search: str | None) -> Iterator[WorkQueue]:
    """The queues that a worker of the sweep has to work on, opened one after the other; to be closed by the caller.

    `about`: the content of the sweep's queue.json; `search`: see `work`.
    """
    if search in (None, GRID):
        yield WorkQueue(folder, member, about)
    for search_id in searches_of(folder) if search is None else [search]:
        if search_id != GRID:
            from src.sweep.search.trials import TrialQueue  # loads what the cells of a grid do without

            yield TrialQueue(folder, member, about, search_id)


def give_up_dead(queue: WorkQueue, engine: Engine) -> None:
    """Takes up what dead workers left, and records as failed what killed too many of them."""
    record_dead(queue, engine, queue.take_up_dead())


def record_dead(queue: WorkQueue, engine: Engine, given_up: Sequence[Claim]) -> None:
    """Records as failed the cells that `WorkQueue.take_up_dead` gave up."""
    for claim in given_up:
        reason = next(e.reason for e in queue.entries("FAIL") if e.trial_id == claim.trial_id)
        engine.record_failure(engine.resolve(queue.config_of(claim)), reason or "")


class Worker:
    """One process's work on a sweep. GPUs are leased for a cell once it is claimed, and what a library sees of them is
    settled when it first counts them: nothing before `Engine.run_cell` may do so, and a grid's cells are claimed without
    the engine."""

    def __init__(self, folder: SweepFolder, member: Member, engine: str, stop: StopRequest) -> None:
        self._folder, self._member, self._stop = folder, member, stop
        self._engine_name = engine
        self._devices = Devices(forget=lambda: self._engine.free_device())

    @property
    def _engine(self) -> Engine:
        return load_engine(self._engine_name)

    def work(self, queue: WorkQueue) -> int:
        """Until nothing is left in the queue, or told to stop; returns how many cells ended here."""
        n_ended = 0
        queue.patience.hurried = self._stop.is_set
        queue.warm_up()
        try:
            while not self._stop.is_set():
                claim = queue.claim()
                if claim is not None:
                    n_ended += self._run(queue, claim)
                elif not self._wait_for_more(queue):
                    break
        finally:
            self._devices.give_back()
        return n_ended

    def _wait_for_more(self, queue: WorkQueue) -> bool:
        """Whether a cell may come free: one that another worker runs with fewer seeds, or that a dead one left."""
        self._devices.give_back()
        if given_up := queue.take_up_dead():
            record_dead(queue, self._engine, given_up)
        if not queue.entries("WAITING", limit=1):
            return False
        time.sleep(IDLE_SECONDS)
        return True

    def _run(self, queue: WorkQueue, claim: Claim) -> bool:
        """Runs one claimed cell; whether it ended here. Raises ConfigError where the folder is not that of the queue."""
        if not self._folder.has_cell(claim.cell):
            queue.requeue(claim)
            problem = (
                f"has no {self._folder.cell(claim.cell)}/cell.yaml, which the queue holds: it is not the folder that"
            )
            raise ConfigError(
                "multirun", str(self._folder.multirun), f"{problem} the sweep's command writes to; share it"
            )
        # The queue hands a cell to one worker; this lock also keeps out a worker of another queue on the same folder.
        lock = FileLock(self._folder.cell(claim.cell) / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            queue.requeue(claim)
            time.sleep(IDLE_SECONDS)
            return False
        start = time.monotonic()
        try:
            outcome = self._outcome(queue, claim)
        except Interrupted:
            queue.requeue(claim)
            log.info("cell %s: interrupted and given back", claim.cell)
            return False
        except StorageAway:
            raise
        except Pruned as reason:
            queue.complete_without_value(claim, str(reason))
            log.info("cell %s: %s", claim.cell, reason)
            return True
        except Exception as error:
            log.exception("cell %s failed", claim.cell)
            queue.fail(claim, f"{type(error).__name__}: {' '.join(str(error).split())}")
            return True
        else:
            if outcome.out_of_memory and self._devices.shared:
                queue.requeue(claim, whole_gpu=True)
                log.warning("cell %s: out of memory; it is tried again with a GPU to itself", claim.cell)
                return False
            queue.tell(claim, outcome)
            log.info("cell %s: done in %.1f s", claim.cell, time.monotonic() - start)
            return True
        finally:
            lock.release()

    def _outcome(self, queue: WorkQueue, claim: Claim) -> Outcome:
        """What became of the cell, on the devices that its runs ask for."""
        config = queue.config_of(claim)
        visible = self._devices.take(config.trainer, whole=claim.whole_gpu, stop=self._stop.is_set)
        if config.trainer.devices > 1:
            n = config.trainer.devices
            try:
                return run_group(self._folder, config, n, self._member.id, visible, self._stop.is_set)
            except GroupFailed as error:
                self._engine.record_failure(self._engine.resolve(config), str(error))
                raise
        if visible is not None:
            os.environ[MASK] = visible
        control = WorkerControl(self._stop, queue.on_progress(claim))
        return self._engine.run_cell(self._engine.resolve(config), control)


class WorkerControl(RunControl):
    """Leaves the cell when this worker is asked to stop. `report`: receives the progress of a trial that may be pruned."""

    def __init__(self, stop: StopRequest, report: OnProgress | None) -> None:
        self._stop, self._report = stop, report
        self.wants_progress = report is not None

    def on_run(self, folder: Path) -> None:
        log.info("finished %s", folder.name)
        self.on_stage()

    def on_stage(self) -> None:
        if self._stop.is_set():
            raise Interrupted

    def on_progress(self, reports: Sequence[ProgressReport]) -> None:
        assert self._report is not None
        self._report(reports)
