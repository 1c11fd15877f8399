"""Locked files by which the processes that use a store coordinate; the system releases them at a process's death."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from src.locks import holder, sign, try_lock


class StageLocks:
    """One lock for each stage in training, in `folder`, shared by the workers of all sweeps and hosts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def held(self, keys: Iterable[str]) -> Iterator[list[str]]:
        """Locks the stages that are free, and yields their keys. Never waits: two processes that each hold one lock
        and wait for another would deadlock."""
        locks: dict[str, FileLock] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for key in keys:
                if (lock := acquired(self._path(key))) is not None:
                    locks[key] = lock
                    sign(lock)
            yield list(locks)
        finally:
            for lock in locks.values():
                remove(lock)

    def any_free(self, keys: Iterable[str]) -> bool:
        """Whether one of the stages is not in training: its result is stored or its process is dead."""
        for key in keys:
            if not self._path(key).exists():
                return True
            if (lock := acquired(self._path(key))) is not None:
                remove(lock)
                return True
        return False

    def holder(self, keys: Iterable[str]) -> str:
        """The process that trains one of the stages."""
        return next((holder(path) for path in map(self._path, keys) if path.exists()), "another process")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.lock"


def acquired(path: Path) -> FileLock | None:
    """The lock at `path` if it is free."""
    lock = FileLock(path)
    return lock if try_lock(lock) else None


def remove(lock: FileLock) -> None:
    """Delete a lock's file while it is held, so that others that have it open notice; then release it."""
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


SLACK = 0.01
"""Share of the limit that one process may write before the store is measured again."""


def _is_result(path: Path) -> bool:
    """Whether the file holds a result rather than a resume point."""
    return not path.name.endswith((".part.safetensors", ".end.safetensors", ".tmp"))


class Eviction:
    """Evicts least recently used files that no live process has used since it started; resume points before results.

    A process marks itself as live by a locked file in ``live/``, whose modification time is its start; the modification
    time of a stored file is its last use. All times come from the file system, so hosts need no common clock.
    """

    def __init__(self, root: Path, limit_gib: float) -> None:
        self.root, self.limit = root, limit_gib * 2**30
        self._live = root / "live"
        self._live.mkdir(parents=True, exist_ok=True)
        self._marker = FileLock(self._live / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}.lock")
        self._marker.acquire()
        self._unmeasured = self.limit  # the first write measures
        self._warned = False

    def before_write(self, n_bytes: int) -> None:
        """Makes space for `n_bytes`, unless another process is already evicting."""
        self._unmeasured += n_bytes
        if not self.limit or self._unmeasured <= SLACK * self.limit:
            return
        if (lock := acquired(self._live / "measuring.lock")) is not None:
            with contextlib.ExitStack() as stack:
                stack.callback(lock.release)
                self._shrink(self.limit - n_bytes)
                self._unmeasured = 0.0

    def _shrink(self, target: float) -> None:
        """Evicts files until at most `target` bytes are left."""
        files = dict(self._files())
        total = sum(stat.st_size for stat in files.values())
        if total <= target:
            return
        start = self._oldest_start()
        for path, stat in sorted(files.items(), key=lambda file: (_is_result(file[0]), file[1].st_mtime)):
            if total <= target:
                return
            with suppress(FileNotFoundError):
                if path.stat().st_mtime >= start:  # read again: another process may have used it meanwhile
                    continue
                path.unlink()
            total -= stat.st_size
        if total > target and not self._warned:
            self._warned = True
            held = f"the stage store {self.root} holds {total / 2**30:.2f} GiB"
            limit = f"more than trainer.store_gib={self.limit / 2**30:g}"
            warnings.warn(f"{held}, {limit}: all of it is in use by live processes", stacklevel=4)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Every file of the store with its size and, as its modification time, its last use."""
        for path in self.root.glob("??/*"):
            with suppress(FileNotFoundError):
                yield path, path.stat()

    def _oldest_start(self) -> float:
        """Start of the oldest live process that uses the store; removes the markers of dead ones."""
        own = Path(self._marker.lock_file)
        starts = [own.stat().st_mtime]
        for path in self._live.glob("*.lock"):
            if path == own or path.name == "measuring.lock":
                continue
            with suppress(FileNotFoundError):
                started = path.stat().st_mtime
                if (lock := acquired(path)) is None:
                    starts.append(started)
                else:
                    remove(lock)
        return min(starts)
