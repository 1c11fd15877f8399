"""Who trains which stage: a lock for each, which the system drops with the process that holds it, however that ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class StageLocks:
    """Locks in `folder`, one file for each stage that is being trained; workers of all sweeps, and of all hosts, see them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self, keys: Iterable[str]) -> Iterator[list[str]]:
        """Those of the stages that nobody else holds, held until the end of the `with` statement. It never waits: who waits
        for one lock with another in hand may wait forever."""
        held: dict[str, FileLock] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for key in keys:
                lock = self._lock(key)
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    continue
                held[key] = lock
            yield list(held)
        finally:
            for lock in held.values():
                Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who opened it before finds it gone
                lock.release()

    def any_free(self, keys: Iterable[str]) -> bool:
        """Whether nobody holds one of the stages, because it is done or its holder is gone."""
        for key in keys:
            lock = self._lock(key)
            if not Path(lock.lock_file).exists():
                return True
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
            return True
        return False

    def _lock(self, key: str) -> FileLock:
        return FileLock(self.folder / f"{key}.lock")
