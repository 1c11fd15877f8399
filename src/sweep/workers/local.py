"""Workers as processes of this machine, replaced when one dies while cells remain; the number of workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from src.config import Config
from src.environment import ONE_THREAD, clean, n_processors
from src.errors import ConfigError
from src.io import PROJECT
from src.sweep import fork_server
from src.sweep.folder import GRID, SweepFolder
from src.sweep.workers.forked import ForkedWorker, WorkerProcess
from src.sweep.workers.gpus import mps_serves, visible_gpus

MAX_DEATHS = 5
"""Consecutive deaths of one slot, while no cell ends: more than a cell that kills its workers can cause."""


def python_path() -> str:
    """PYTHONPATH of a process that imports this project."""
    return os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])


class Workers(Protocol):
    """The workers of a command."""

    @property
    def detached(self) -> bool:
        """Whether the command leaves once they are started."""

    @property
    def hopeless(self) -> bool:
        """Whether every worker has died so often that none is replaced."""

    def keep_running(self, n_useful: int, n_ended: int) -> int:
        """Starts or replaces workers while `n_useful` further ones find work; returns the number that have died since
        the last call.

        `n_ended`: number of cells that have ended, on any worker. A worker that exits in good order while cells wait
        (it found none free) is replaced too; one that keeps dying while no cell ends is not.
        """

    def interrupt(self) -> None:
        """Asks the workers to save their progress, give their cells back, and exit."""

    def kill(self) -> None:
        """Kills the workers; their cells are requeued later."""

    def wait(self, seconds: float) -> bool:
        """Waits up to `seconds` for the workers to exit; returns whether all have."""

    def log(self, slot: int) -> Path:
        """The file with that worker's output."""


def n_workers_of(config: Config) -> int:
    """Number of workers of a command, on all machines together."""
    n_machines, n_gpus, n_cpus = config.launcher.resources(len(visible_gpus()), n_processors())
    return n_machines * (_n_slots(config, n_gpus, n_cpus) if config.n_workers == "auto" else config.n_workers)


def n_workers_here(config: Config) -> int:
    """Number of workers on this machine: the user's, else GPUs x slots, or one for each processor."""
    if config.n_workers != "auto":
        return config.n_workers
    return _n_slots(config, len(visible_gpus()), n_processors())


def _n_slots(config: Config, n_gpus: int, n_cpus: int) -> int:
    trainer = config.trainer
    on_gpus = n_gpus > 0 and trainer.name != "cpu"
    if trainer.devices > 1:
        return max(1, (n_gpus if on_gpus else n_cpus) // trainer.devices)
    return n_gpus * trainer.slots if on_gpus else n_cpus


def warn_of_idle_slots(config: Config) -> None:
    """Prints one line where several workers share a GPU without CUDA MPS."""
    trainer = config.trainer
    if trainer.slots > 1 and trainer.devices == 1 and trainer.name != "cpu" and visible_gpus() and not mps_serves():
        problem = "gains nothing: without CUDA MPS the workers of a GPU take turns"
        fix = "start nvidia-cuda-mps-control -d, or set trainer.slots=1"
        print(f"trainer.slots={trainer.slots}: {problem}; {fix}", file=sys.stderr)


def launch(folder: SweepFolder, config: Config, engine: str, search: str) -> Workers:
    """The workers of a command on this machine. Raises ConfigError where it lacks the GPUs that every run asks for."""
    trainer, gpus = config.trainer, visible_gpus()
    if gpus and trainer.name != "cpu" and trainer.devices > len(gpus):
        raise ConfigError("trainer.devices", trainer.devices, f"only {len(gpus)} GPUs are visible here; lower it")
    if trainer.name == "gpu" and not gpus:
        import torch  # the engine has loaded it

        if not torch.cuda.is_available():
            raise ConfigError("trainer", "gpu", "no CUDA device is visible here; take trainer=auto or trainer=cpu")
    warn_of_idle_slots(config)
    return LocalWorkers(folder, n_workers_here(config), engine, search=search)


def prepare(config: Config, engine: str) -> None:
    """Starts loading what the workers of a command need, which takes seconds, while the command plans their work."""
    if config.launcher.name == "local" and forks():
        fork_server.start(engine, worker_environment())


def forks() -> bool:
    """Whether workers are forked: where the system can, and no GPU is visible."""
    return fork_server.METHOD in multiprocessing.get_all_start_methods() and not visible_gpus()


def worker_environment() -> dict[str, str]:
    """The variables of a worker."""
    return clean(os.environ) | dict.fromkeys(ONE_THREAD, "1") | {"PYTHONPATH": python_path()}


class LocalWorkers(Workers):
    """Up to `n_workers` processes, each in its own session, logging to ``logs/``.

    A Ctrl-C at the terminal therefore reaches only the parent, which passes it on once with `interrupt`. They are
    forked from one process (see `forks`), or else start as ``python -m src.worker``.
    """

    detached = False

    def __init__(
        self,
        folder: SweepFolder,
        n_workers: int,
        engine: str,
        *,
        search: str = GRID,
        label: str = "worker",
    ) -> None:
        self._folder, self._label = folder, label
        self.n_workers = n_workers
        self._engine, self._search = engine, search
        self._forks = forks()
        self._slots: list[WorkerProcess | None] = []
        self._deaths: list[int] = []
        self._n_ended = 0
        self._environment = worker_environment()

    def keep_running(self, n_useful: int, n_ended: int) -> int:
        if n_ended > self._n_ended:
            self._n_ended = n_ended
            self._deaths = [0] * len(self._deaths)
        n_died = 0
        for slot, process in enumerate(self._slots):
            if process is not None and (status := process.poll()) is not None:
                if status != 0:
                    self._deaths[slot] += 1
                    n_died += 1
                self._slots[slot] = None
        n_wanted = min(self.n_workers, n_useful + self.n_alive)
        while len(self._slots) < n_wanted:
            self._slots.append(None)
            self._deaths.append(0)
        for slot, process in enumerate(self._slots):
            if process is None and self._deaths[slot] < MAX_DEATHS and self.n_alive < n_wanted:
                self._slots[slot] = self._start(slot)
        return n_died

    @property
    def n_alive(self) -> int:
        """Number of workers that run."""
        return sum(process is not None for process in self._slots)

    @property
    def hopeless(self) -> bool:
        return bool(self._slots) and self.n_alive == 0 and all(deaths >= MAX_DEATHS for deaths in self._deaths)

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def wait(self, seconds: float) -> bool:
        for slot, process in enumerate(self._slots):
            if process is not None:
                try:
                    process.wait(seconds)
                except subprocess.TimeoutExpired:
                    return False
                self._slots[slot] = None
        return True

    def log(self, slot: int) -> Path:
        return self._folder.logs / f"{self._label}-{slot}.log"

    def _signal(self, number: signal.Signals) -> None:
        for process in self._slots:
            if process is not None and process.poll() is None:
                process.send_signal(number)

    def _start(self, slot: int) -> WorkerProcess:
        self._folder.logs.mkdir(parents=True, exist_ok=True)
        if self._forks:
            return ForkedWorker(self._folder, self._search, self._engine, self.log(slot), self._environment)
        arguments = {"sweep": self._folder.sweep, "multirun": self._folder.multirun, "search": self._search}
        arguments |= {"engine": self._engine, "parent": os.getpid()}
        with self.log(slot).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "src.worker", *(f"{key}={value}" for key, value in arguments.items())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
