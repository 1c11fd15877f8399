"""The interface that every writer of MLflow runs implements, and its two errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from src.tracking.record import Key, Record, mask


class StoredRun(NamedTuple):
    """A run that MLflow already holds."""

    run_id: str
    digest: str
    status: str
    start: int

    def matches(self, record: Record) -> bool:
        """Whether the run is complete and equal to the record."""
        return self.digest == record.digest() and self.status == record.status


class Tracker(Protocol):
    def write(self, records: Sequence[Record]) -> int:
        """Makes MLflow hold each record exactly once, parents first; returns the number of records it lacked.

        Raises TrackerUnavailable or RecordRefused; what was written before stays and is recognised next time.
        """

    def close(self) -> None: ...


class TrackerUnavailable(Exception):
    """MLflow is down, slow, locked or denies access: keep the records and retry later."""


class RecordRefused(Exception):
    """MLflow answers and rejects this record for good."""

    def __init__(self, key: Key, reason: str) -> None:
        super().__init__(f"{key.level} {key.id}: {mask(reason)}")
        self.key = key
