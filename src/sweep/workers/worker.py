"""A worker: claims a cell, runs it, and reports its outcome, until nothing waits or it is asked to stop.

While nothing waits it helps a worker that runs a cell: it trains stages of the cell into the stage store, by whose
locks the two share them. The results are the other worker's, so a helper that dies or leaves costs at most what it was
training.
"""

from __future__ import annotations

import functools
import io
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType

from optuna.trial import FrozenTrial

from src.cells.outcome import CellOutcome
from src.cells.resolve import ResolvedCell
from src.config import Config
from src.environment import ONE_THREAD
from src.errors import ClaimLost, ConfigError, Interrupted, Pruned, one_line
from src.interrupts import SECONDS_TO_LEAVE, is_importing
from src.locks import abort_waits_if
from src.sweep.engine import DEFAULT_ENGINE, Engine, load_engine
from src.sweep.folder import GRID, SweepFolder, check_compatibility
from src.sweep.grid.cells import n_shares
from src.sweep.processes import Process
from src.sweep.queue.queue import MAX_ATTEMPTS, STOPPED, ClaimedCell, WorkQueue
from src.sweep.queue.retry import StorageUnavailable
from src.sweep.workers.control import WorkerControl, once_a_second
from src.sweep.workers.device_group import GroupFailed, run_group
from src.sweep.workers.gpus import MASK, Devices
from src.terminal import TextOutput

IDLE_SECONDS = 0.5

log = logging.getLogger(__name__)


class StopRequest:
    """Ctrl-C, SIGTERM or a dead parent. Once: the worker saves its progress and gives the cell back; twice:
    it exits now.

    `parent`: the process id of the command that started the worker, if one did.
    """

    def __init__(self, parent: int | None = None) -> None:
        self._requested = threading.Event()
        self._parent = parent
        self._is_loading = False

    def listen(self) -> None:
        """Installs the signal handlers."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGUSR2, self._on_warning)
        abort_waits_if(self.is_set)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a forked worker receives only now what was sent before

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._requested.is_set():
            os._exit(128 + number)
        self._requested.set()
        if self._is_loading and is_importing(frame):
            timer = threading.Timer(SECONDS_TO_LEAVE, self._leave_if_loading, [number])
            timer.daemon = True
            timer.start()
        elif self._is_loading:
            raise KeyboardInterrupt

    def _leave_if_loading(self, number: int) -> None:
        if self._is_loading:  # its cell is requeued as that of a dead worker
            os._exit(128 + number)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """A step that a request ends by KeyboardInterrupt, because nothing of it has to be saved.

        An import is not interrupted (see `src.interrupts`): the request ends the step after it, or the process after
        `SECONDS_TO_LEAVE`.
        """
        try:
            self._is_loading = True
            self._raise_if_requested()
            yield
            self._raise_if_requested()
        finally:
            self._is_loading = False

    def _raise_if_requested(self) -> None:
        if self._requested.is_set():
            raise KeyboardInterrupt

    def _on_warning(self, number: int, frame: object) -> None:
        """Slurm signals every process of a job before its time is up; this never exits at once."""
        del number, frame
        self._requested.set()

    def is_set(self) -> bool:
        """Whether to stop."""
        if self._parent is not None and (os.getppid() != self._parent or not _command_lives()):
            self._requested.set()
        return self._requested.is_set()


def _command_lives() -> bool:
    """Whether the worker's command still runs: where the process that forks does not end with it, as on Linux."""
    command = multiprocessing.parent_process()
    return command is None or command.is_alive()


def work(
    folder: SweepFolder, search: str | None = None, engine: str = DEFAULT_ENGINE, parent: int | None = None
) -> int:
    """Works on the sweep until nothing is left for this worker; returns the number of cells that it ended.

    `search`: the id of a search, or `GRID` for the cells of a grid; None: all of the sweep. `engine`: see
    `load_engine`. `parent`: the process id of the command of this checkout that started the worker; None: the worker
    joins.
    """
    for variable in ONE_THREAD:
        os.environ.setdefault(variable, "1")
    stop = StopRequest(parent)
    stop.listen()
    if parent is None:  # the checkout may be at another commit by now; the command's workers must not stop for that
        check_compatibility(folder)
    n_ended = 0
    with suppress(Interrupted), Process(folder, "worker") as process:  # while it waited for a lock
        worker = Worker(process, engine, stop)
        for queue in open_queues(folder, process, search, engine):
            with closing(queue):
                n_ended += worker.work(queue)
            if stop.is_set():
                break
    return n_ended


def work_logged(folder: SweepFolder, search: str, engine: str, output: Path, parent: int | None = None) -> None:
    """`work`, with the standard streams of this process in the file `output`, ConfigError included."""
    with output.open("ab") as file, open(os.devnull, "rb") as null:
        for number, stream in ((0, null), (1, file), (2, file)):
            os.dup2(stream.fileno(), number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        buffer = io.BufferedWriter(io.FileIO(number, "wb", closefd=False))
        setattr(sys, name, TextOutput(buffer, "utf-8", errors="backslashreplace", line_buffering=True))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, force=True
    )
    try:
        n_cells = work(folder, search, engine, parent)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise
    print(f"nothing left for this worker; it ended {n_cells} cell{'s' * (n_cells != 1)}", file=sys.stderr)


def open_queues(folder: SweepFolder, process: Process, search: str | None, engine: str) -> Iterator[WorkQueue]:
    """Opens the queues of a sweep one after the other; the caller closes them. `search`, `engine`: see `work`."""
    if search in (None, GRID):
        yield WorkQueue(folder, process)
    for search_id in folder.searches if search is None else [search]:
        if search_id != GRID:
            from src.sweep.search.trials import TrialQueue  # imports what the cells of a grid do not need

            yield TrialQueue(folder, process, search_id, engine)


def record_failed(queue: WorkQueue, engine: Engine, failed: Sequence[FrozenTrial]) -> None:
    """Records the failure of cells whose workers died too often, as `WorkQueue.requeue_stale` returns them."""
    for trial in failed:
        reason = f"its worker died {MAX_ATTEMPTS} times; out of memory?"
        engine.record_failure(engine.resolve(queue.config_of(trial)), reason)


class Worker:
    """One process that works on a sweep.

    It leases GPUs after it has claimed a cell. A library sees the GPUs that are visible when it first counts them, so
    nothing counts them before `Engine.run_cell`, and the cells of a grid are claimed without loading the engine.
    """

    def __init__(self, process: Process, engine: str, stop: StopRequest) -> None:
        self._process, self._stop = process, stop
        self._engine_name = engine
        self._helped: set[tuple[str, int]] = set()
        self._devices = Devices(free=lambda: self._engine.free_device())

    @property
    def _engine(self) -> Engine:
        return load_engine(self._engine_name)

    def work(self, queue: WorkQueue) -> int:
        """Works until the queue is empty or a stop is requested; returns the number of cells that ended here."""
        n_ended, ended = 0, False
        queue.warm_up()
        try:
            while not self._stop.is_set():
                claim = queue.claim()
                self._process.update(cell=claim.cell if claim else None, n_ended=ended)
                ended = claim is not None and self._run(queue, claim)
                n_ended += ended
                if claim is None and not self._wait_for_more(queue):
                    break
        finally:
            self._devices.release()
        return n_ended

    def _wait_for_more(self, queue: WorkQueue) -> bool:
        """Whether a cell waits that is not to be claimed yet, was left by a dead worker, or may follow from results."""
        self._devices.release()
        if failed := queue.requeue_stale():
            record_failed(queue, self._engine, failed)
        if not queue.n_waiting():
            if self._help(queue):
                return True
            if not any(command.in_rounds for command in self._process.others("sweep")):
                return False
        time.sleep(IDLE_SECONDS)
        return True

    def _help(self, queue: WorkQueue) -> bool:
        """Trains stages of a cell that another worker runs; False if there is none that this worker has not helped."""
        for claim in queue.running():
            address, config = (queue.search_id, claim.trial.number), queue.config_of(claim.trial)
            if address in self._helped or n_shares(config) == 1:
                continue
            self._process.update(cell=claim.cell, helps=True)
            log.info("cell %s: another worker runs it; this one helps", claim.cell)
            is_left = self._stopped_or(lambda claim=claim: not queue.owns(claim))  # type: ignore[misc]
            try:
                cell = self._prepare(config, claim, is_left)
                self._engine.help_cell(cell, self._control(queue, claim, is_left, helps=True))
                self._helped.add(address)
            except (Interrupted, KeyboardInterrupt):
                log.info("cell %s: left", claim.cell)
            except StorageUnavailable:
                raise
            except Exception:  # the worker that runs the cell meets it too, and records it
                self._helped.add(address)
                log.exception("cell %s: help failed", claim.cell)
            finally:
                self._process.update(cell=None)
            return True
        return False

    def _run(self, queue: WorkQueue, claim: ClaimedCell) -> bool:
        """Runs a claimed cell; returns whether it ended here."""
        start = time.monotonic()
        try:
            outcome = self._outcome(queue, claim)
        except ClaimLost:
            log.warning("cell %s: others took it over while this process was suspended; nothing is written", claim.cell)
            return False
        except (Interrupted, KeyboardInterrupt):
            if queue.is_stopped(claim):
                queue.fail(claim, STOPPED)
                log.info("cell %s: stopped by a user", claim.cell)
                return True
            queue.requeue(claim)
            log.info("cell %s: interrupted and given back", claim.cell)
            return False
        except StorageUnavailable:
            raise
        except Pruned as reason:
            queue.complete_without_value(claim, str(reason))
            log.info("cell %s: %s", claim.cell, reason)
            return True
        except Exception as error:
            log.exception("cell %s failed", claim.cell)
            queue.fail(claim, one_line(error))
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
            claim.lock.release()

    def _stopped_or(self, has_ended: Callable[[], bool]) -> Callable[[], bool]:
        """Whether to leave a cell: this worker is to stop, or `has_ended`, which is looked up once a second."""
        cell_has_ended = once_a_second(has_ended)
        return lambda: self._stop.is_set() or cell_has_ended()

    def _outcome(self, queue: WorkQueue, claim: ClaimedCell) -> CellOutcome:
        """Runs the cell on the devices that its config asks for."""
        config = queue.config_of(claim.trial)
        is_stopped = self._stopped_or(lambda: queue.is_stopped(claim))
        if config.trainer.devices == 1:
            cell = self._prepare(config, claim, is_stopped)
            return self._engine.run_cell(cell, self._control(queue, claim, is_stopped))
        visible = self._devices.lease(config.trainer, whole=claim.whole_gpu, stop=self._stop.is_set)
        lock, owns = self._process.lock_path, functools.partial(queue.owns, claim)
        try:
            return run_group(config, self._engine_name, lock, visible, is_stopped, owns)
        except GroupFailed as error:
            self._engine.record_failure(self._engine.resolve(config), str(error))
            raise

    def _prepare(self, config: Config, claim: ClaimedCell, is_stopped: Callable[[], bool]) -> ResolvedCell:
        """Leases the device of a cell and loads its data."""
        visible = self._devices.lease(config.trainer, whole=claim.whole_gpu, stop=is_stopped)
        if visible is not None:
            os.environ[MASK] = visible
        with self._stop.loading():  # the engine, Lightning and the data: seconds, before the first cell
            self._engine.load()
            return self._engine.resolve(config)

    def _control(
        self, queue: WorkQueue, claim: ClaimedCell, is_stopped: Callable[[], bool], *, helps: bool = False
    ) -> WorkerControl:
        def n_workers() -> int:
            others = () if queue.has_seen_more else self._process.others("worker")
            return 1 + sum(other.cell in (None, claim.cell) for other in others)

        return WorkerControl(
            is_stopped, queue.on_progress(claim), lambda: queue.owns(claim), n_workers=n_workers, helps=helps
        )
