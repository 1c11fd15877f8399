"""The worker pool of one machine: what a job of a cluster runs, and a host that joins with all its devices."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from contextlib import closing, suppress
from typing import Literal

from src.config import Config
from src.errors import Interrupted
from src.locks import abort_waits_if
from src.sweep.engine import DEFAULT_ENGINE, load_engine
from src.sweep.folder import SweepFolder, check_compatibility
from src.sweep.grid.cells import n_shares
from src.sweep.processes import Process
from src.sweep.queue.queue import WorkQueue
from src.sweep.queue.retry import StorageUnavailable
from src.sweep.workers.local import LocalWorkers, n_workers_here, warn_of_idle_slots
from src.sweep.workers.worker import open_queues, record_failed

TICK_SECONDS = 1.0

log = logging.getLogger(__name__)


class WorkerPool:
    """Keeps `n_workers` workers (``auto``: as the sweep's trainer and this machine's devices allow) at a sweep.

    Unlike the sweep's command it has no cells of its own: it ends when nothing waits and its workers have ended, or
    after `interrupt`.
    """

    def __init__(
        self,
        folder: SweepFolder,
        n_workers: int | Literal["auto"],
        search: str | None = None,
        engine: str = DEFAULT_ENGINE,
    ) -> None:
        self._folder, self._n_workers, self._search, self._engine = folder, n_workers, search, engine
        check_compatibility(folder)
        self._workers: LocalWorkers | None = None
        self._stopping = False

    def work(self) -> None:
        """Works until nothing is left. Raises ConfigError where the study is out of reach."""
        abort_waits_if(lambda: self._stopping)
        with suppress(Interrupted), Process(self._folder, "pool") as process:
            for queue in open_queues(self._folder, process, self._search, self._engine):
                with closing(queue):
                    self._work(queue)
                if self._stopping:
                    break

    def _work(self, queue: WorkQueue) -> None:
        try:
            if (config := queue.sample()) is not None:
                self._until_done(queue, config)
            # left by workers that `shutdown` killed
            record_failed(queue, load_engine(self._engine), queue.requeue_stale())
        except (StorageUnavailable, Interrupted):
            if not self._stopping:
                self.interrupt()
            self._wait()
            raise

    def _until_done(self, queue: WorkQueue, config: Config) -> None:
        n = n_workers_here(config) if self._n_workers == "auto" else self._n_workers
        label = f"{socket.gethostname()}-{os.getpid()}"
        warn_of_idle_slots(config)
        self._workers = workers = LocalWorkers(self._folder, n, self._engine, search=queue.search_id, label=label)
        per_cell = n_shares(config)
        n_running = len(queue.running()) if per_cell > 1 else 0  # to help with, once
        while not self._stopping:
            n_waiting = queue.n_waiting()
            workers.keep_running(per_cell * max(n_waiting, n_running), queue.n_ended())
            n_running = 0
            if workers.n_alive == 0:
                if n_waiting:
                    log.error("every worker died; see %s", workers.log(0))
                    raise SystemExit(1)
                return
            time.sleep(TICK_SECONDS)
        self._wait()

    def interrupt(self) -> None:
        """Asks the workers to save their progress, give their cells back and exit; a second call kills them.

        A signal handler may call this while `work` runs.
        """
        if self._workers is not None:
            (self._workers.kill if self._stopping else self._workers.interrupt)()
        self._stopping = True

    def shutdown(self, seconds: float) -> None:
        """Interrupts the workers, waits for them, and kills those that are alive after `seconds`."""
        self.interrupt()
        self._wait(seconds)
        if self._workers is not None:
            self._workers.kill()

    def _wait(self, seconds: float = math.inf) -> None:
        until = time.monotonic() + seconds
        while self._workers is not None and time.monotonic() < until and not self._workers.wait(TICK_SECONDS):
            pass
