"""The process registry of a sweep. Every live process holds a lock, which the operating system drops at its death."""

from __future__ import annotations

import json
import os
import secrets
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal

from filelock import FileLock, Timeout

from src.io import read_json, write_atomically
from src.sweep.folder import SweepFolder

Role = Literal["sweep", "pool", "worker", "status"]


@dataclass(frozen=True)
class ProcessInfo:
    """One process. `cell`: hash of the cell that it runs, or that it `helps` another worker to train; `n_ended`: number
    of cells that it has ended.

    `in_rounds`: of a command that may queue further cells after those of now.
    """

    id: str
    role: Role
    host: str
    pid: int
    cell: str | None = None
    n_ended: int = 0
    in_rounds: bool = False
    helps: bool = False


class Process:
    """This process in the registry, for as long as the `with` statement runs."""

    def __init__(self, folder: SweepFolder, role: Role, *, in_rounds: bool = False) -> None:
        host = socket.gethostname()
        name = f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
        self.info = ProcessInfo(name, role, host, os.getpid(), in_rounds=in_rounds)
        self._folder = folder.processes
        self._path = folder.processes / f"{self.info.id}.json"
        self._lock = FileLock(self.lock_path)

    @property
    def lock_path(self) -> Path:
        """The file that is locked while this process lives."""
        return self._path.with_suffix(".lock")

    def __enter__(self) -> Process:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        live_processes(self._folder)  # removes entries of processes that were killed after everybody else had left
        self._path.unlink(missing_ok=True)
        self._lock.release()
        self.lock_path.unlink(missing_ok=True)

    def update(self, *, cell: str | None, n_ended: int = 0, helps: bool = False) -> None:
        """Records the cell that this process runs or `helps` now, and adds to the number of cells that it has ended."""
        self.info = replace(self.info, cell=cell, n_ended=self.info.n_ended + n_ended, helps=helps)
        self._write()

    def others(self, role: Role) -> list[ProcessInfo]:
        """The other live processes with that role."""
        return [info for info in live_processes(self._folder) if info.role == role and info.id != self.info.id]

    def file_time(self) -> int:
        """The time of the shared file system, in ns: comparable with the times of other files there."""
        try:
            os.utime(self.lock_path)
        except FileNotFoundError:  # this process was suspended, and others took it for dead
            self._lock.release()
            self.__enter__()
        return self.lock_path.stat().st_mtime_ns

    def _write(self) -> None:
        write_atomically(self._path, json.dumps(asdict(self.info)) + "\n", durable=False)


def live_processes(folder: Path) -> list[ProcessInfo]:
    """The live processes of a registry, by id. Removes the entries of dead ones."""
    living = []
    for path in sorted(folder.glob("[!.]*.json")):
        lock = path.with_suffix(".lock")
        if is_locked(lock):
            living += read_process(path)
        else:
            path.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
    return living


def read_process(path: Path) -> list[ProcessInfo]:
    """The entry in a file of the registry; empty if the process has just left, or if a power cut damaged the file."""
    try:
        return [ProcessInfo(**read_json(path))]
    except (FileNotFoundError, ValueError, TypeError):
        return []


def is_locked(path: Path) -> bool:
    """Whether a live process holds the lock file."""
    if not path.exists():
        return False
    with suppress(Timeout), FileLock(path, blocking=False):
        return False
    return True
