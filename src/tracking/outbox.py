"""The outbox of a sweep: a folder of small files, one for each run, cell or sweep that MLflow does not hold yet.

An entry names a folder of results, relative to the sweep's folder, whose content is read at delivery. One process at a
time delivers the entries in order and removes each after MLflow has confirmed it. Delivering twice is harmless, since a
tracker looks a run up before it creates it, and so is a kill at any moment.

A result and its entry are two files. An entry is therefore written first, as pending, and committed once the result
exists (`Outbox.transaction`); the deliverer commits or deletes the pending entries of killed processes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from src.config import TrackingConfig
from src.io import inside, read_json, write_atomically
from src.locks import acquire
from src.terminal import printable
from src.tracking.connect import lacks_database, open_tracker
from src.tracking.record import Record, mask
from src.tracking.runs import DAMAGED, has_record, record_of
from src.tracking.tracker import RecordRefused, Tracker, TrackerUnavailable

logger = logging.getLogger(__name__)

BATCH = 50
"""Records in one write, which is one transaction of a database."""

PENDING = "promised"
"""Folder of pending entries: part of the file format."""

STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """Outcome of a delivery. `error`: why it stopped; `refused`: (entry, reason)."""

    n_delivered: int = 0
    error: str | None = None
    refused: tuple[tuple[str, str], ...] = ()


class Outbox:
    """The outbox of one sweep, ``<sweep>/outbox/``. Any process may write; entries of one process keep their order."""

    def __init__(self, sweep_dir: Path) -> None:
        self.sweep_dir = sweep_dir
        self.folder = sweep_dir / "outbox"
        self._pending = self.folder / PENDING
        self._counter = itertools.count()
        self._last_ns = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def transaction(self, folder: Path, *, named: bool = True) -> Iterator[None]:
        """Enqueues `folder` (of a run, a cell, or the sweep) around the writing of its files.

        If the process dies inside or right after the block, the next delivery enqueues what was written. `named`: see
        `write_files`; the same as for the files.
        """
        entry = self._pending / self._next_name()
        self._pending.mkdir(parents=True, exist_ok=True)
        with _lock_of(entry):
            relative = os.path.relpath(folder, self.sweep_dir)
            assert not relative.startswith(".."), f"{folder} is not inside {self.sweep_dir}"
            write_atomically(entry, json.dumps({"schema": 1, "folder": relative}), named=named)
            yield  # an error leaves the entry pending, so that files that were written are delivered
            os.replace(entry, self.folder / entry.name)
        _lock_path(entry).unlink(missing_ok=True)

    def entries(self) -> list[Path]:
        """The entries to deliver, oldest first."""
        return _entries(self.folder)

    def pending(self) -> list[Path]:
        """The entries whose results are being written, or whose process was killed, oldest first."""
        return _entries(self._pending)

    def deliver(self, tracker: Tracker, *, wait_s: float = 0) -> Delivery:
        """Delivers in order until nothing is left or MLflow does not answer; never raises for the tracker's sake.

        An entry that can never be delivered (its folder is missing or damaged, or MLflow refuses it) moves to
        ``outbox/refused/`` with the reason. `wait_s`: how long to wait for another process that delivers this sweep.
        """
        held = FileLock(self.folder / ".lock")
        if not self.folder.is_dir() or not acquire(held, wait_s):
            return Delivery()
        try:
            return self._deliver(tracker)
        finally:
            held.release()

    def _deliver(self, tracker: Tracker) -> Delivery:
        n_delivered = 0
        refused: list[tuple[str, str]] = []
        self._commit_pending()
        while entries := self.entries():
            records: list[tuple[Path, Record]] = []
            for entry in entries[:BATCH]:
                try:
                    records.append((entry, record_of(self._folder_of(entry))))
                except DAMAGED as error:
                    refused.append(self._refuse(entry, f"{type(error).__name__}: {error}"))
            try:
                tracker.write([record for _, record in records])
            except TrackerUnavailable as error:
                return Delivery(n_delivered=n_delivered, error=str(error), refused=tuple(refused))
            except RecordRefused as error:
                refused += [self._refuse(entry, str(error)) for entry, record in records if record.key == error.key]
                continue  # the tracker recognises what it took of this batch
            for entry, _ in records:
                entry.unlink(missing_ok=True)
            n_delivered += len(records)
        return Delivery(n_delivered=n_delivered, refused=tuple(refused))

    def _commit_pending(self) -> None:
        """Commits pending entries whose result exists; deletes the rest. Entries of living processes are left alone."""
        for entry in self.pending():
            with contextlib.suppress(Timeout), _lock_of(entry):
                if not entry.exists():
                    continue
                try:
                    is_written = has_record(self._folder_of(entry))
                except DAMAGED as error:
                    self._refuse(entry, f"{type(error).__name__}: {error}; `make sync` finds what it named")
                    continue
                if is_written:
                    os.replace(entry, self.folder / entry.name)
                else:
                    entry.unlink()
                _lock_path(entry).unlink(missing_ok=True)

    def _refuse(self, entry: Path, reason: str) -> tuple[str, str]:
        body = {"reason": mask(reason), "entry": entry.read_text(errors="replace")}
        write_atomically(self.folder / "refused" / entry.name, json.dumps(body, indent=1))
        entry.unlink()
        logger.warning("MLflow entry %s refused: %s", entry.name, mask(reason))
        return entry.name, mask(reason)

    def _folder_of(self, entry: Path) -> Path:
        return inside(self.sweep_dir, str(read_json(entry)["folder"]))

    def _next_name(self) -> str:
        """A file name that sorts after every earlier one of this process."""
        with self._lock:
            self._last_ns = max(time.time_ns(), self._last_ns + 1)  # the clock may be set back
            return f"{self._last_ns:020d}-{os.getpid():07d}-{next(self._counter):06d}.json"


def _print_warning(text: str) -> None:
    print(printable(text), file=sys.stderr)  # rich obeys colours in what is printed while its bar runs


class Deliverer:
    """Delivers a sweep's outbox from a thread of the sweep's parent process, so that no training waits for MLflow.

    The thread imports MLflow and opens the tracker at the first entry, or at its start if it `expects` one. While
    MLflow is unavailable, one warning reports it, attempts continue at growing intervals, and the next command or
    ``make sync`` delivers what is left.
    """

    def __init__(
        self,
        sweep_dir: Path,
        tracking: TrackingConfig,
        *,
        interval_s: float = 1.0,
        longest_pause_s: float = 30.0,
        expects: bool = False,
        warn: Callable[[str], None] = _print_warning,
    ) -> None:
        self._outbox = Outbox(sweep_dir)
        self._tracking = tracking
        self._interval_s = interval_s
        self._longest_pause_s = longest_pause_s
        self._expects = expects
        self._warn = warn
        self._tracker: Tracker | None = None
        self._has_warned = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.error: str | None = None
        """Why the last round stopped: MLflow does not answer."""

    def start(self) -> Deliverer:
        assert self._thread is None, "started already"
        if self._tracking.name != "off":
            self._thread = threading.Thread(target=self._run, name="mlflow-deliverer", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Ends the thread and makes one more round.

        Waits for an MLflow that hangs for at most `STOP_TIMEOUT_S`: the thread then dies with the process; nothing is
        lost.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
            if self._thread.is_alive():
                self._report(f"no answer within {STOP_TIMEOUT_S:g} s")
                return
        if self._tracking.name != "off":
            self._round(wait_s=5)
        if self._tracker is not None:
            self._tracker.close()

    def __enter__(self) -> Deliverer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # after an error the thread ends with the process, and the next command delivers the rest
            self.stop()

    def _run(self) -> None:
        pause = self._interval_s
        if self._expects:
            with contextlib.suppress(TrackerUnavailable):  # the first entry will find that again, and say how many wait
                self._open()
        while not self._stopping.wait(pause):
            self._round(wait_s=0)
            pause = self._interval_s if self.error is None else min(2 * pause, self._longest_pause_s)

    def _round(self, *, wait_s: float) -> None:
        if not self._outbox.entries() and not self._outbox.pending():
            self.error = None
            return
        try:
            self._report(self._outbox.deliver(self._open(), wait_s=wait_s).error)
        except TrackerUnavailable as error:
            self._report(str(error))

    def _open(self) -> Tracker:
        """The tracker, opened once. Raises TrackerUnavailable."""
        if self._tracker is None:
            multirun = self._outbox.sweep_dir.parent
            if lacks_database(self._tracking, multirun) and (n := _n_delivered_before(multirun)):
                self._warn(f"MLflow's database is new and lacks {n} runs of earlier commands: `make sync` writes them")
            self._tracker = open_tracker(self._tracking.of_sweep(self._outbox.sweep_dir.name), multirun)
        assert self._tracker is not None
        return self._tracker

    def _report(self, error: str | None) -> None:
        """Records why a round stopped, and warns, once until MLflow answers again."""
        self.error = None if error is None else mask(error)
        n_left = len(self._outbox.entries())
        if self.error is None:
            self._has_warned = False
        elif n_left and not self._has_warned:  # without entries, results are still being written
            self._has_warned = True
            line = textwrap.shorten(self.error, 200, placeholder=" ...")
            self._warn(
                f"MLflow does not answer ({line}). Results are safe on disk and training continues; {n_left} entries "
                "wait. They are delivered once it answers again, or by `make sync`."
            )


def _n_delivered_before(multirun: Path) -> int:
    """Number of results on disk that no outbox entry names: a database that was lost had them."""
    waiting: set[Path] = set()
    for outbox in (Outbox(folder.parent) for folder in multirun.glob("*/outbox")):
        for entry in (*outbox.entries(), *outbox.pending()):
            with contextlib.suppress(*DAMAGED):
                waiting.add(outbox._folder_of(entry))
    return sum(path.parent not in waiting for path in multirun.glob("*/cells/*/*/result.json"))


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def _lock_path(entry: Path) -> Path:
    return entry.with_suffix(".lock")


def _lock_of(entry: Path) -> FileLock:
    """Held while the result is written; the system releases it when the process ends."""
    return FileLock(_lock_path(entry), blocking=False)
