"""Who runs a sweep's workers: processes of this machine, watched, and replaced when one dies while cells remain; or jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from src.config import Config, SlurmLauncher
from src.errors import ConfigError
from src.sweep.folder import GRID, SweepFolder
from src.sweep.workers.gpus import gpus_here
from src.sweep.workers.worker import ONE_THREAD, PARENT_VARIABLE

MAX_DEATHS = 5
"""Of one slot in a row, without a cell ending anywhere meanwhile: more than a cell that kills its workers can cause."""

PROJECT = Path(__file__).resolve().parents[3]


def n_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def python_path() -> str:
    """PYTHONPATH of a process that is to find this project."""
    return os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])


class Workers(Protocol):
    """Workers, as the command that started them sees them."""

    @property
    def detached(self) -> bool:
        """Whether they are left to themselves once they are started."""

    @property
    def hopeless(self) -> bool:
        """Whether every worker has died so often that none is replaced any more."""

    def keep_running(self, n_waiting: int, n_ended: int) -> int:
        """Starts or replaces workers as long as `n_waiting` cells wait; returns how many have just died.

        `n_ended`: cells ended so far, by anybody. A worker that leaves in good order while cells wait (it found none
        free) is replaced as well; one that keeps dying without any progress is not.
        """

    def interrupt(self) -> None:
        """Asks the workers to finish their current run, give their cell back, and leave."""

    def kill(self) -> None:
        """Ends the workers now; their cells are taken up again later."""

    def wait(self, seconds: float) -> bool:
        """Waits at most so long for the workers to leave; whether all have."""

    def log(self, slot: int) -> Path:
        """Where that worker's output goes."""


def workers_for(folder: SweepFolder, config: Config, search: str = GRID) -> Workers:
    """The workers that a sweep's settings ask for, on its search `search`. Raises ConfigError where they cannot be had."""
    if isinstance(config.launcher, SlurmLauncher):
        from src.sweep.workers.slurm import SlurmWorkers

        return SlurmWorkers(folder, config.launcher, config.n_workers, search)
    _refuse_too_much(config)
    return LocalWorkers(folder, n_workers_here(config), search=search)


def _refuse_too_much(config: Config) -> None:
    """Raises ConfigError where this machine has not the GPUs that every run would ask for."""
    trainer, gpus = config.trainer, gpus_here()
    if gpus and trainer.name != "cpu" and trainer.devices > len(gpus):
        raise ConfigError("trainer.devices", trainer.devices, f"only {len(gpus)} GPUs are visible here; lower it")
    if trainer.name == "gpu" and not gpus:
        import torch  # the engine has loaded it

        if not torch.cuda.is_available():
            raise ConfigError("trainer", "gpu", "no CUDA device is visible here; take trainer=auto or trainer=cpu")


def n_workers_of(config: Config) -> int:
    """How many workers there will be, all jobs together."""
    launcher = config.launcher
    if not isinstance(launcher, SlurmLauncher):
        return n_workers_here(config)
    if config.n_workers != "auto":
        return launcher.jobs * config.n_workers
    return launcher.jobs * _places(config, launcher.gpus, launcher.cpus)


def n_workers_here(config: Config) -> int:
    """How many workers this machine is to run: as the user says, else GPUs x slots, or one for each processor."""
    if config.n_workers != "auto":
        return config.n_workers
    return _places(config, len(gpus_here()), n_processors())


def _places(config: Config, n_gpus: int, n_cpus: int) -> int:
    trainer = config.trainer
    on_gpus = n_gpus > 0 and trainer.name != "cpu"
    if trainer.devices > 1:
        return max(1, (n_gpus if on_gpus else n_cpus) // trainer.devices)
    return n_gpus * trainer.slots if on_gpus else n_cpus


class LocalWorkers:
    """Up to `n_workers` processes ``python -m src.worker``, each in a session of its own, logging to ``logs/``.

    A Ctrl-C at the terminal so reaches the parent alone, which passes it on once with `interrupt`. `search`: the id of the
    search they work on, or `GRID`.
    """

    def __init__(self, folder: SweepFolder, n_workers: int, *, search: str = GRID, label: str = "worker") -> None:
        self._folder, self._search = folder, search
        self.n_workers = n_workers
        self._label = label
        self._slots: list[subprocess.Popen[bytes] | None] = []
        self._deaths: list[int] = []
        self._n_ended = 0
        self._environment = dict(os.environ) | dict.fromkeys(ONE_THREAD, "1")
        self._environment[PARENT_VARIABLE] = str(os.getpid())
        self._environment["PYTHONPATH"] = python_path()

    @property
    def detached(self) -> bool:
        """Never: they leave when their parent does."""
        return False

    def keep_running(self, n_waiting: int, n_ended: int) -> int:
        """See `Workers.keep_running`."""
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
        return self._folder.logs / f"{self._label}-{slot}.log"

    def _signal(self, number: signal.Signals) -> None:
        for process in self._slots:
            if process is not None and process.poll() is None:
                process.send_signal(number)

    def _start(self, slot: int) -> subprocess.Popen[bytes]:
        self._folder.logs.mkdir(parents=True, exist_ok=True)
        folder = self._folder
        names = [f"sweep={folder.sweep}", f"multirun={folder.multirun}", f"search={self._search}"]
        command = [sys.executable, "-m", "src.worker", *names]
        with self.log(slot).open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
