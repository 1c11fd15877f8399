"""Waiting for a lock file: the log names the process that holds it, a signal ends the wait, and so does a timeout."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from src.errors import ConfigError, Interrupted

WAIT_SECONDS = 300.0
"""Longest wait for a lock that processes hold for milliseconds."""
LONG_SECONDS = 3600.0
"""Longest wait for a lock under which another process downloads or measures."""
NOTICE_SECONDS = 3.0
"""A wait above this is logged."""
ABORT_SECONDS = 0.5
"""A process that is asked to stop still waits this long, to put its work back in order."""

SIGNATURE = 128
"""Characters of a holder's name in a lock file, padded, so that a shorter one leaves nothing of a longer one."""

log = logging.getLogger(__name__)

_should_abort: list[Callable[[], bool]] = [lambda: False]


def abort_waits_if(should_abort: Callable[[], bool]) -> None:
    """From now on, waits of this process raise Interrupted where `should_abort` returns True, as after a signal."""
    _should_abort[:] = [should_abort]


def abort_requested() -> bool:
    """Whether this process was asked to stop; see `abort_waits_if`."""
    return _should_abort[0]()


@contextmanager
def locked(path: Path, *, seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Holds the lock file `path`. Raises ConfigError after `seconds`, and Interrupted; see `abort_waits_if`."""
    with held(FileLock(path), seconds):
        yield


@contextmanager
def held(lock: BaseFileLock, seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """The same as `locked` for a lock that is used many times."""
    if not acquire(lock, seconds):
        problem = f"held for over {seconds:g} s by {holder(Path(lock.lock_file))}; let that process go on, or end it"
        raise ConfigError("lock", lock.lock_file, problem)
    try:
        yield
    finally:
        lock.release()


def acquire(lock: BaseFileLock, seconds: float) -> bool:
    """Takes a lock, and signs it with this process's name; False if it is not free within `seconds`."""
    notice = Notice(lock.lock_file, lambda: holder(Path(lock.lock_file)))
    try:
        lock.acquire(timeout=seconds, cancel_check=notice.after_waiting)
    except Timeout:
        if notice.after_waiting():
            raise Interrupted from None
        return False
    sign(lock)
    return True


def try_lock(lock: BaseFileLock) -> bool:
    """Acquires a lock if it is free; returns whether it was."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def sign(lock: BaseFileLock) -> None:
    """Writes this process's id, its host and the time into a lock file that it holds; see `holder`."""
    if not isinstance(lock, SoftFileLock):  # which has a content of its own
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        with suppress(OSError), Path(lock.lock_file).open("r+") as file:  # a full disk; truncating would cost a sync
            file.write(f"{os.getpid()} {socket.gethostname()} {now}".ljust(SIGNATURE))


class Notice:
    """A wait, whose cause is logged once."""

    def __init__(self, what: str, who: Callable[[], str]) -> None:
        self._what, self._who = what, who
        self._began = time.monotonic()
        self._is_logged = False

    def after_waiting(self) -> bool:
        """To be called several times a second; returns whether this process was asked to stop meanwhile."""
        waited = time.monotonic() - self._began
        if waited > NOTICE_SECONDS and not self._is_logged:
            self._is_logged = True
            log.warning("waiting for %s, held by %s", self._what, self._who())
        is_main = threading.current_thread() is threading.main_thread()  # which signals interrupt
        return is_main and waited > ABORT_SECONDS and abort_requested()


def holder(path: Path) -> str:
    """The process that holds a lock file: its id, host and since when, and whether it is suspended."""
    with suppress(OSError, ValueError):
        pid, host, since = path.read_text().split()
        if not (host + since).isprintable():
            raise ValueError
        return f"process {pid} on {host} since {since}{_suspended(int(pid), host)}"
    with suppress(OSError):
        inode = path.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if "->" not in words and words[5].endswith(f":{inode}") and int(words[4]) > 0:
                return f"process {words[4]} on {socket.gethostname()}{_suspended(int(words[4]), socket.gethostname())}"
    return "another process"


def _suspended(pid: int, host: str) -> str:
    if host != socket.gethostname():
        return ""
    with suppress(OSError, IndexError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return f", suspended: continue it by kill -CONT {pid}, or end it by kill -9 {pid}" if state in "Tt" else ""
    return ""
