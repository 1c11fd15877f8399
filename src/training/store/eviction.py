"""Keeps the stage store to its size."""

from __future__ import annotations

import os
import secrets
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

SLACK = 0.01
"""Share of the limit that one process may write before the store is measured again."""


@dataclass(frozen=True)
class _Entry:
    path: Path
    size: int
    used: float

    @property
    def is_result(self) -> bool:
        """Whether it holds a stage's final weights, rather than something to go on from."""
        return not self.path.name.endswith((".part.safetensors", ".end.safetensors", ".tmp"))


class Eviction:
    """The rule: over the limit, entries go that no living process has read or written since it started, first what stages
    would go on from, then results, of each kind the least recently used first.

    A process says that it lives by a locked file in ``live/``, whose time is its start; the time of an entry's file is
    that of its last use. All times are those of the file system, so that hosts need not agree on theirs.
    """

    def __init__(self, root: Path, limit_gib: float) -> None:
        self.root, self.limit = root, limit_gib * 2**30
        self._live = root / "live"
        self._live.mkdir(parents=True, exist_ok=True)
        self._sign = FileLock(self._live / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}.lock")
        self._sign.acquire()
        self._unmeasured = self.limit  # so that the first write measures
        self._warned = False

    def make(self, size: int) -> None:
        """To be called before `size` bytes are written."""
        if not self.limit:
            return
        self._unmeasured += size
        if self._unmeasured <= SLACK * self.limit:
            return
        measuring = FileLock(self._live / "measuring.lock")
        try:
            measuring.acquire(blocking=False)
        except Timeout:  # another process is at it
            return
        try:
            self._shrink(self.limit - size)
            self._unmeasured = 0.0
        finally:
            measuring.release()

    def _shrink(self, target: float) -> None:
        """Removes what may go until at most `target` bytes are left."""
        entries = list(self._entries())
        total = sum(entry.size for entry in entries)
        if total <= target:
            return
        start = self._oldest_start()
        for entry in sorted(entries, key=lambda entry: (entry.is_result, entry.used)):
            if total <= target:
                return
            try:
                if entry.path.stat().st_mtime >= start:  # looked at again: it may just have been used
                    continue
                entry.path.unlink()
            except FileNotFoundError:
                pass
            total -= entry.size
        if total > target and not self._warned:
            self._warned = True
            held = f"the stage store {self.root} holds {total / 2**30:.2f} GiB"
            limit = f"more than trainer.store_gib={self.limit / 2**30:g}"
            warnings.warn(f"{held}, {limit}: all of it is in use by living processes", stacklevel=4)

    def _entries(self) -> Iterator[_Entry]:
        for folder in self.root.iterdir():
            if len(folder.name) != 2:
                continue
            with os.scandir(folder) as files:
                for file in files:
                    try:
                        known = file.stat()
                    except FileNotFoundError:
                        continue
                    yield _Entry(Path(file.path), known.st_size, known.st_mtime)

    def _oldest_start(self) -> float:
        """When the longest-living process that uses the store started; the signs of the dead are removed."""
        own = Path(self._sign.lock_file)
        starts = [own.stat().st_mtime]
        for path in self._live.glob("*.lock"):
            if path == own or path.name == "measuring.lock":
                continue
            lock = FileLock(path)
            try:
                started = path.stat().st_mtime
                lock.acquire(blocking=False)
            except FileNotFoundError:
                continue
            except Timeout:
                starts.append(started)
            else:
                path.unlink(missing_ok=True)
                lock.release()
        return min(starts)
