"""The workers of one machine among several: what a job of a cluster runs, and a host that joins with all it has."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Literal

from src.sweep.engine import load_engine
from src.sweep.folder import SweepFolder
from src.sweep.processes import Member
from src.sweep.queue.queue import WorkQueue
from src.sweep.queue.retry import StorageAway
from src.sweep.workers.compatibility import refuse_other_code
from src.sweep.workers.local import LocalWorkers, n_workers_here
from src.sweep.workers.worker import queues_of, record_dead

TICK_SECONDS = 1.0

log = logging.getLogger(__name__)


class Crew:
    """Keeps `n_workers` workers (``auto``: as the sweep's trainer and this machine's devices allow) at a sweep.

    Unlike the command that started the sweep it has no cells of its own: it leaves when nothing waits any more and its
    workers are done, or when told to.
    """

    def __init__(self, folder: SweepFolder, n_workers: int | Literal["auto"], search: str | None = None) -> None:
        self._folder, self._n_workers, self._search = folder, n_workers, search
        self._about = folder.read_queue()
        refuse_other_code(folder.sweep, self._about)
        self._workers: LocalWorkers | None = None
        self._told_to_leave = False

    def work(self) -> None:
        """Until nothing is left. Raises ConfigError where the queue cannot be reached."""
        with Member(self._folder, "crew") as member:
            for queue in queues_of(self._folder, member, self._about, self._search):
                queue.patience.hurried = lambda: self._told_to_leave
                try:
                    self._until_done(queue)
                except StorageAway:
                    self.interrupt()
                    self._wait()
                    raise
                finally:
                    if given_up := queue.take_up_dead():  # workers that would not leave in time were killed
                        record_dead(queue, load_engine(self._about["engine"]), given_up)
                    queue.close()
                if self._told_to_leave:
                    break

    def interrupt(self) -> None:
        """Has the workers finish what they are at, give their cells back, and leave; told again, they end now.

        May be called by a handler of a signal, while `work` is under way.
        """
        if self._workers is not None:
            (self._workers.kill if self._told_to_leave else self._workers.interrupt)()
        self._told_to_leave = True

    def let_go(self, seconds: float) -> None:
        """The same, and waits for it; workers that are still there after `seconds` are ended. See `interrupt`."""
        self.interrupt()
        if self._workers is not None:
            until = time.monotonic() + seconds
            while time.monotonic() < until and not self._workers.wait(TICK_SECONDS):
                pass
            self._workers.kill()

    def _until_done(self, queue: WorkQueue) -> None:
        config = queue.sample()
        if config is None:
            return
        n = n_workers_here(config) if self._n_workers == "auto" else self._n_workers
        label = f"{socket.gethostname()}-{os.getpid()}"
        self._workers = workers = LocalWorkers(self._folder, n, search=queue.name, label=label)
        while not self._told_to_leave:
            n_waiting = queue.n_waiting()
            workers.keep_running(n_waiting, queue.n_ended())
            if workers.n_alive == 0:
                if n_waiting:
                    log.error("no worker survives; see %s", workers.log(0))
                    raise SystemExit(1)
                return
            time.sleep(TICK_SECONDS)
        self._wait()

    def _wait(self) -> None:
        while self._workers is not None and not self._workers.wait(TICK_SECONDS):
            pass
