"""Where MLflow's copy of the results goes: the one interface, and how it is opened.

A mirror takes records and makes MLflow say exactly that: written twice, they are there once. Two kinds exist, one for a
tracking server (`server`), one for a database that nothing stands in front of (`database`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from src.config import TrackingConfig
from src.errors import ConfigError
from src.tracking.record import Key, Record, mask
from src.urls import with_driver


class Found(NamedTuple):
    """A run that the tracker holds already."""

    run_id: str
    digest: str
    status: str
    start: int

    def says(self, record: Record) -> bool:
        """Whether the run is whole and equal to the record."""
        return self.digest == record.digest() and self.status == record.status


class Mirror(Protocol):
    def write(self, records: Sequence[Record]) -> int:
        """Make MLflow hold each record exactly once, in order, parents first; returns how many were not there yet.

        Raises `TrackerUnavailable` when the tracker does not answer in time (what was written stays, and is recognised
        the next time) and `RecordRefused` when it will never take that record.
        """

    def close(self) -> None: ...


class TrackerUnavailable(Exception):
    """The tracker is down, slow, locked or refuses us: keep everything and try again later."""


class RecordRefused(Exception):
    """The tracker answers and will never take this record."""

    def __init__(self, key: Key, reason: str) -> None:
        super().__init__(f"{key.level} {key.run or key.cell or key.sweep}: {mask(reason)}")
        self.key = key


def tracking_uri(tracking: TrackingConfig, multirun: Path) -> str | None:
    """The address of MLflow's store; None when tracking is off."""
    if tracking.name == "off":
        return None
    if tracking.uri is not None:
        return with_driver(tracking.uri)
    if tracking.name == "server":
        raise ConfigError("tracking.uri", None, "a server has an address; say tracking.uri=http://127.0.0.1:5000")
    return f"sqlite:///{multirun.absolute() / 'mlflow.db'}"


def artifact_root(multirun: Path) -> Path:
    """The folder whose files `mlflow server --artifacts-destination` shows under ``mlflow-artifacts:/``."""
    return multirun.absolute() / "mlartifacts"


def keep_mlflow_quiet() -> None:
    """Telemetry off, and no report of every migration step; to be called before anything imports mlflow."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")


def open_mirror(tracking: TrackingConfig, multirun: Path) -> Mirror | None:
    """The mirror of a configuration, its schema up to date and its experiment there; None when tracking is off.

    Imports mlflow, which takes a second or more: call it where nobody waits. Raises `TrackerUnavailable`.
    """
    uri = tracking_uri(tracking, multirun)
    if uri is None:
        return None
    keep_mlflow_quiet()
    if uri.startswith(("http://", "https://")):
        from src.tracking.server import ServerMirror

        return ServerMirror(uri, tracking.experiment)
    from src.tracking.database import DatabaseMirror
    from src.tracking.schema import prepare

    prepared = prepare(uri, tracking.experiment, multirun.absolute() / "mlflow.lock")
    return DatabaseMirror(uri, prepared, artifact_root(multirun))
