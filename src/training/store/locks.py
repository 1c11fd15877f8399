"""One lock file for each stage in training. The operating system releases a lock with the process that holds it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class StageLocks:
    """The locks in `folder`, shared by the workers of all sweeps and hosts."""

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
                if (lock := self._acquired(key)) is not None:
                    locks[key] = lock
            yield list(locks)
        finally:
            for lock in locks.values():
                _remove(lock)

    def any_free(self, keys: Iterable[str]) -> bool:
        """Whether one of the stages is not in training: its result is stored or its process is dead."""
        for key in keys:
            if not self._path(key).exists():
                return True
            if (lock := self._acquired(key)) is not None:
                _remove(lock)
                return True
        return False

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.lock"

    def _acquired(self, key: str) -> FileLock | None:
        lock = FileLock(self._path(key))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        return lock


def _remove(lock: FileLock) -> None:
    Path(lock.lock_file).unlink(
        missing_ok=True
    )  # while it is held: a process that has it open then sees that the file is deleted
    lock.release()
