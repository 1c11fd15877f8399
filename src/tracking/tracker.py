"""The interface that every writer of MLflow runs implements, its two errors, and what the writers share."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from src.io import MAX_OWN_NAME, file_name
from src.tracking.record import Key, Record, mask

ARTIFACT_SCHEME = "mlflow-artifacts:/"


class Experiment(NamedTuple):
    id: str
    artifact_location: str


def artifact_location(experiment: str) -> str:
    """A server resolves it against its ``--artifacts-destination``, so that multirun/ can move."""
    return ARTIFACT_SCHEME + file_name(re.sub(r"[^\w.\-]", "_", experiment), MAX_OWN_NAME)


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


def write_artifacts(root: Path, location: str, artifacts: Mapping[str, bytes]) -> None:
    """Writes files under `root`, where a server with ``--artifacts-destination`` serves `location`."""
    if not artifacts:
        return
    if not location.startswith(ARTIFACT_SCHEME):
        raise TrackerUnavailable(
            f"the experiment keeps its files at {mask(location)}; choose another name by tracking.experiment=NAME"
        )
    folder = root / location.removeprefix(ARTIFACT_SCHEME).lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in artifacts.items():
        (folder / name).write_bytes(content)


def describe(error: Exception) -> str:
    """The database error as text, with the fix if the file itself is damaged."""
    cause = getattr(error, "orig", None) or error
    if type(cause) is sqlite3.DatabaseError:  # its subclasses concern a statement or a lock
        return f"its database is damaged ({cause}): move mlflow.db away, and `make sync` writes it again"
    return mask(str(error))
