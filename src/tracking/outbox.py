"""What MLflow has not been told yet: a folder of small files, one for each run, cell or sweep that has news.

An entry names a folder of results, relative to the sweep's; what it says is read when it is delivered. Entries are
written whole or not at all, delivered in order by one process at a time, and removed only after the tracker has
confirmed. Delivering twice is harmless (a mirror looks up before it creates), so a kill at any moment is, too.

A result and its entry are two files, and a kill can come between them. So an entry is written first, as a promise, and
becomes due when the result is there (`Outbox.telling`); promises that a killed process left are found by the deliverer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from src.config import TrackingConfig
from src.io import write_atomically
from src.tracking.mirror import Mirror, RecordRefused, TrackerUnavailable, open_mirror
from src.tracking.record import Record, mask
from src.tracking.runs import has_news, record_of

logger = logging.getLogger(__name__)

BATCH = 50
"""Records in one write: a transaction of a database."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """How a round went. `error`: why it stopped early; `busy`: somebody else is delivering; `refused`: (entry, reason)."""

    n_delivered: int = 0
    n_left: int = 0
    error: str | None = None
    busy: bool = False
    refused: tuple[tuple[str, str], ...] = ()


class Outbox:
    """The outbox of one sweep, ``<sweep>/outbox/``. Any process may put; entries of one process keep their order."""

    def __init__(self, sweep_dir: Path) -> None:
        self.sweep_dir = sweep_dir
        self.folder = sweep_dir / "outbox"
        self._promises = self.folder / "promised"
        self._counter = itertools.count()
        self._last_ns = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def telling(self, folder: Path) -> Iterator[None]:
        """Around the writing of what `folder` (of a run, a cell, or the sweep itself) has to say: it is told afterwards.

        However the process dies inside or right after it, what was written is told; what was not is not missed.
        """
        promise = self._promises / self._next_name()
        self._promises.mkdir(parents=True, exist_ok=True)
        with _lock_of(promise):
            write_atomically(promise, self._entry(folder))
            yield  # an error leaves the promise: what did get written is told all the same
            os.replace(promise, self.folder / promise.name)
        _lock_path(promise).unlink(missing_ok=True)

    def put(self, folder: Path) -> Path:
        """Say that `folder` has news; its files must be written already."""
        entry = self.folder / self._next_name()
        write_atomically(entry, self._entry(folder))
        return entry

    def _entry(self, folder: Path) -> str:
        relative = os.path.relpath(folder, self.sweep_dir)
        assert not relative.startswith(".."), f"{folder} is not inside {self.sweep_dir}"
        return json.dumps({"schema": 1, "folder": relative})

    def _next_name(self) -> str:
        """Names sort in the order in which they were given."""
        with self._lock:
            self._last_ns = max(time.time_ns(), self._last_ns + 1)  # the clock may be set back
            return f"{self._last_ns:020d}-{os.getpid():07d}-{next(self._counter):06d}.json"

    def entries(self) -> list[Path]:
        """What waits to be delivered, oldest first."""
        return _entries(self.folder)

    def promises(self) -> list[Path]:
        """What is being written now, or was when its process was killed, oldest first."""
        return _entries(self._promises)

    def _take_up_promises(self) -> None:
        """Makes due what a killed process had written but not told, and drops what it had not come to write."""
        for promise in self.promises():
            with contextlib.suppress(Timeout), _lock_of(promise):  # else it is being written right now
                if not promise.exists():
                    continue
                if has_news(self._folder_of(promise)):
                    os.replace(promise, self.folder / promise.name)
                else:
                    promise.unlink()
                _lock_path(promise).unlink(missing_ok=True)

    def _folder_of(self, entry: Path) -> Path:
        return self.sweep_dir / str(json.loads(entry.read_text())["folder"])

    def deliver(self, mirror: Mirror, *, wait_s: float = 0) -> Delivery:
        """Deliver in order until nothing is left or the tracker does not answer; never raises because of the tracker.

        `wait_s`: how long to wait for another deliverer of this sweep to finish. An entry that can never be delivered
        (its folder is gone or damaged, or the tracker refuses it) is set aside in ``outbox/refused/`` with the reason.
        """
        if not self.folder.is_dir():
            return Delivery()
        try:
            with FileLock(self.folder / ".lock", timeout=wait_s):
                return self._deliver(mirror)
        except Timeout:
            return Delivery(n_left=len(self.entries()), busy=True)

    def _deliver(self, mirror: Mirror) -> Delivery:
        n_delivered, refused = 0, []
        self._take_up_promises()
        while entries := self.entries():
            batch = entries[:BATCH]
            records, damaged = self._read(batch)
            for entry, reason in damaged:
                refused.append(self._set_aside(entry, reason))
            try:
                mirror.write([record for _, record in records])
            except TrackerUnavailable as error:
                left = len(self.entries())
                return Delivery(n_delivered=n_delivered, n_left=left, error=str(error), refused=tuple(refused))
            except RecordRefused as error:
                refused += [self._set_aside(entry, str(error)) for entry, record in records if record.key == error.key]
                continue  # what the tracker took of this batch is recognised the next time
            for entry, _ in records:
                entry.unlink(missing_ok=True)
            n_delivered += len(records)
        return Delivery(n_delivered=n_delivered, refused=tuple(refused))

    def _read(self, batch: Sequence[Path]) -> tuple[list[tuple[Path, Record]], list[tuple[Path, str]]]:
        records: list[tuple[Path, Record]] = []
        damaged: list[tuple[Path, str]] = []
        for entry in batch:
            try:
                records.append((entry, record_of(self._folder_of(entry))))
            except (
                ValueError,
                KeyError,
                TypeError,
                OSError,
            ) as error:  # OSError: pyarrow's damaged file, a lost folder
                damaged.append((entry, f"{type(error).__name__}: {error}"))
        return records, damaged

    def _set_aside(self, entry: Path, reason: str) -> tuple[str, str]:
        body = {"reason": mask(reason), "entry": entry.read_text()}
        write_atomically(self.folder / "refused" / entry.name, json.dumps(body, indent=1))
        entry.unlink()
        logger.warning("MLflow was not told of %s: %s", entry.name, mask(reason))
        return entry.name, mask(reason)


class Deliverer:
    """Delivers a sweep's outbox from a thread of the sweep's parent process, so that no training waits for a tracker.

    MLflow is imported and the tracker opened at the first entry, in that thread. While the tracker is away, nothing is
    raised: one warning says so, attempts go on at growing intervals, and what is left is delivered by the next command
    or by ``make sync``. Use as a context manager, or `start` and `stop`.
    """

    def __init__(
        self,
        sweep_dir: Path,
        tracking: TrackingConfig,
        *,
        interval_s: float = 1.0,
        longest_pause_s: float = 30.0,
        warn: Callable[[str], None] = logger.warning,
    ) -> None:
        self._outbox = Outbox(sweep_dir)
        self._tracking = tracking
        self._interval_s = interval_s
        self._longest_pause_s = longest_pause_s
        self._warn = warn
        self._mirror: Mirror | None = None
        self._warned = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.last = Delivery()

    def start(self) -> Deliverer:
        assert self._thread is None, "started already"
        if self._tracking.name != "off":
            self._thread = threading.Thread(target=self._run, name="mlflow-deliverer", daemon=True)
            self._thread.start()
        return self

    def stop(self, *, flush: bool = True, timeout_s: float = 60.0) -> Delivery:
        """End the thread; with `flush`, make one last round first. Returns how the last round went.

        A tracker that hangs is waited for no longer than `timeout_s`: the thread dies with the process, losing nothing.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            hangs = self._thread.is_alive()
            self._thread = None
            if hangs:
                self.last = self._unreachable(f"no answer within {timeout_s:g} s")
                return self.last
        if flush and self._tracking.name != "off":
            self._round(wait_s=5)
        if self._mirror is not None:
            self._mirror.close()
            self._mirror = None
        return self.last

    def __enter__(self) -> Deliverer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        pause = self._interval_s
        while not self._stopping.wait(pause):
            self._round(wait_s=0)
            failing = self.last.error is not None
            pause = min(2 * pause, self._longest_pause_s) if failing else self._interval_s

    def _round(self, *, wait_s: float) -> None:
        if not self._outbox.entries() and not self._outbox.promises():
            self.last = Delivery()
            return
        try:
            if self._mirror is None:
                self._mirror = open_mirror(self._tracking, self._outbox.sweep_dir.parent)
            assert self._mirror is not None
            self.last = self._outbox.deliver(self._mirror, wait_s=wait_s)
        except TrackerUnavailable as error:
            self.last = self._unreachable(str(error))
            return
        if self.last.error is not None:
            self._unreachable(self.last.error)
        else:
            self._warned = False

    def _unreachable(self, reason: str) -> Delivery:
        delivery = Delivery(n_left=len(self._outbox.entries()), error=mask(reason))
        if not self._warned:
            self._warned = True
            self._warn(
                f"MLflow does not answer ({_short(mask(reason))}). Results are safe on disk and training goes on; "
                f"{delivery.n_left} entries wait. They are delivered when it is back; `make sync` does so by hand."
            )
        return delivery


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def _lock_path(promise: Path) -> Path:
    return promise.with_suffix(".lock")


def _lock_of(promise: Path) -> FileLock:
    """Held while the result is written: the system drops it with the process, however that ends."""
    return FileLock(_lock_path(promise), blocking=False)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]} ..."
