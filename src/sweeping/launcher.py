"""Local worker processes: started once, watched, and replaced when one dies while cells remain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

from src.sweeping.folder import SweepFolder
from src.sweeping.worker import ONE_THREAD, PARENT_VARIABLE

MAX_DEATHS = 5
"""Of one slot in a row, without a cell ending anywhere meanwhile: more than a cell that kills its workers can cause."""

PROJECT = Path(__file__).resolve().parent.parent.parent


def n_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalWorkers:
    """Up to `n_workers` processes ``python -m src.worker``, each in a session of its own, logging to ``logs/``.

    A Ctrl-C at the terminal so reaches the parent alone, which passes it on once with `interrupt`.
    """

    def __init__(self, folder: SweepFolder, n_workers: int | Literal["auto"]) -> None:
        self._folder = folder
        self.n_workers = n_processors() if n_workers == "auto" else n_workers
        self._slots: list[subprocess.Popen[bytes] | None] = []
        self._deaths: list[int] = []
        self._n_ended = 0
        self._environment = dict(os.environ) | dict.fromkeys(ONE_THREAD, "1")
        self._environment[PARENT_VARIABLE] = str(os.getpid())
        self._environment["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])

    def keep_running(self, n_waiting: int, n_ended: int) -> int:
        """Starts or replaces workers as long as `n_waiting` cells wait; returns how many have just died.

        `n_ended`: cells ended so far, by anybody. A worker that leaves in good order while cells wait (it found none
        free) is replaced as well; one that keeps dying without any progress is not.
        """
        if n_ended > self._n_ended:
            self._n_ended = n_ended
            self._deaths = [0] * len(self._deaths)
        n_died = 0
        for slot, process in enumerate(self._slots):
            if process is not None and process.poll() is not None:
                if process.returncode != 0:
                    self._deaths[slot] += 1
                    n_died += 1
                self._slots[slot] = None
        n_wanted = min(self.n_workers, n_waiting + self.n_alive)
        while len(self._slots) < n_wanted:
            self._slots.append(None)
            self._deaths.append(0)
        for slot, process in enumerate(self._slots):
            if process is None and self._deaths[slot] < MAX_DEATHS and self.n_alive < n_wanted:
                self._slots[slot] = self._start(slot)
        return n_died

    @property
    def n_alive(self) -> int:
        """Workers that run now."""
        return sum(process is not None for process in self._slots)

    @property
    def hopeless(self) -> bool:
        """Whether every worker has died so often that none is replaced any more."""
        return bool(self._slots) and self.n_alive == 0 and all(deaths >= MAX_DEATHS for deaths in self._deaths)

    def interrupt(self) -> None:
        """Asks the workers to finish their current run, give their cell back, and leave."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """Ends the workers now; their cells are taken up again later."""
        self._signal(signal.SIGKILL)

    def wait(self, seconds: float) -> bool:
        """Waits at most so long for the workers to leave; whether all have."""
        for slot, process in enumerate(self._slots):
            if process is not None:
                try:
                    process.wait(seconds)
                except subprocess.TimeoutExpired:
                    return False
                self._slots[slot] = None
        return True

    def log(self, slot: int) -> Path:
        """Where that worker's output goes."""
        return self._folder.logs / f"worker-{slot}.log"

    def _signal(self, number: signal.Signals) -> None:
        for process in self._slots:
            if process is not None and process.poll() is None:
                process.send_signal(number)

    def _start(self, slot: int) -> subprocess.Popen[bytes]:
        self._folder.logs.mkdir(parents=True, exist_ok=True)
        folder = self._folder
        command = [sys.executable, "-m", "src.worker", f"sweep={folder.sweep}", f"multirun={folder.multirun}"]
        with self.log(slot).open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
