"""Who is alive: every process of a sweep is a member, with a lock that dies with it and a heartbeat for other hosts."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from filelock import FileLock, Timeout

from src.io import write_atomically
from src.sweep.folder import SweepFolder

Role = Literal["sweep", "crew", "worker", "status"]

HEARTBEAT_SECONDS = 15.0
GRACE_SECONDS = 180.0
"""Longer than network file systems keep a file's time in their caches (60 s by default on Linux)."""


def host_key() -> str:
    """The machine and its boot: a lock of before a reboot, or of another machine, says nothing here."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}:{boot.read_text().strip()[:8] if boot.exists() else ''}"


class Member:
    """This process, entered in ``members/`` for as long as it lives; use it in a `with` statement.

    Dead means, on the same host, that the member's lock is free (the system drops it at death, however it dies), and on
    another host, that its heartbeat is `grace` seconds older than ours: both times are set by the shared file system.
    """

    def __init__(
        self,
        folder: SweepFolder,
        role: Role,
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.role = role
        self._folder = folder.members
        self._path = folder.members / f"{self.id}.json"
        self._heartbeat, self._grace = heartbeat, grace
        self._lock = FileLock(self._path.with_suffix(".lock"))
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Member:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        self._enter()
        self._thread.start()
        return self

    def _enter(self) -> None:
        content = {"id": self.id, "role": self.role, "host": host_key(), "pid": os.getpid()}
        write_atomically(self._path, json.dumps(content) + "\n", durable=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()
        self.others(self.role)  # takes along what the dead left behind: they may have died when nobody was to come
        self._path.unlink(missing_ok=True)
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def alive(self, member_id: str) -> bool:
        """Whether the member with that id still lives, as far as this host can tell."""
        if member_id == self.id:
            return True
        other = read_member(self._folder / f"{member_id}.json")
        return other is not None and self._lives(other)

    def others(self, role: Role) -> list[dict[str, Any]]:
        """The other living members with that role; what the dead left behind is removed."""
        living = []
        for path in sorted(self._folder.glob("*.json")):
            other = read_member(path)
            if other is None or other["id"] == self.id:
                continue
            if not self._lives(other):
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
            elif other["role"] == role:
                living.append(other)
        return living

    def _lives(self, other: dict[str, Any]) -> bool:
        path = self._folder / f"{other['id']}.json"
        if other["host"] == host_key():
            return locked(path.with_suffix(".lock"))
        try:
            os.utime(self._path)
            return path.stat().st_mtime > self._path.stat().st_mtime - self._grace
        except FileNotFoundError:
            return False

    def _beat(self) -> None:
        while not self._left.wait(self._heartbeat):
            try:
                os.utime(self._path)
            except FileNotFoundError:  # this host slept so long that another one took us for dead
                self._enter()


def read_member(path: Path) -> dict[str, Any] | None:
    """What a member wrote about itself; None when it has left."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    assert isinstance(content, dict)
    return content


def locked(path: Path) -> bool:
    """Whether a process of this host holds the lock."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False
