"""Opens the tracker of a configuration: MLflow's client, or the bulk writer where it knows MLflow's tables."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from src.config import TrackingConfig
from src.errors import ConfigError
from src.tracking.credentials import use_for
from src.tracking.tracker import Tracker
from src.urls import sqlite_file, sqlite_url, with_driver

logger = logging.getLogger(__name__)


def tracking_uri(tracking: TrackingConfig, multirun: Path) -> str | None:
    """The URI of MLflow's store; None if tracking is off."""
    if tracking.name == "off":
        return None
    if tracking.uri is not None:
        return with_driver(tracking.uri)
    if tracking.name == "server":
        raise ConfigError("tracking.uri", None, "a server needs a URI; set tracking.uri=http://127.0.0.1:5000")
    return sqlite_url(multirun / "mlflow.db")


def lacks_database(tracking: TrackingConfig, multirun: Path) -> bool:
    """Whether MLflow's database is a file that does not exist yet, or an empty one."""
    file = sqlite_file(tracking_uri(tracking, multirun) or "")
    return file is not None and (not file.exists() or not file.stat().st_size)


def artifact_root(multirun: Path) -> Path:
    """The folder that `mlflow server --artifacts-destination` serves under ``mlflow-artifacts:/``."""
    return multirun.absolute() / "mlartifacts"


def keep_mlflow_quiet() -> None:
    """Disable MLflow's telemetry and its log of every migration step; call before mlflow is imported."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")


def open_tracker(tracking: TrackingConfig, multirun: Path) -> Tracker | None:
    """The tracker of a configuration, with schema and experiment in place; None if tracking is off.

    Imports mlflow, which takes seconds, unless the database is as it should be: do not call it on a path that a user
    waits for. Raises TrackerUnavailable if MLflow does not answer.
    """
    uri = tracking_uri(tracking, multirun)
    if uri is None:
        return None
    assert tracking.experiment is not None, "see TrackingConfig.of_sweep"
    keep_mlflow_quiet()
    if uri.startswith(("http://", "https://")):
        from src.tracking.client import ClientTracker

        use_for(uri)
        return ClientTracker(uri, tracking.experiment)
    from src.tracking import bulk

    experiment = bulk.open_experiment(uri, tracking.experiment)
    if experiment is None:
        from src.tracking.schema import prepare

        experiment = prepare(uri, tracking.experiment, multirun.absolute() / "mlflow.lock")
    reason = bulk.incompatibility(uri)
    if reason is None:
        return bulk.BulkTracker(uri, experiment, artifact_root(multirun))
    from src.tracking.client import ClientTracker

    logger.warning("the bulk writer is off, runs are written through MLflow's client: %s", reason)
    return ClientTracker(uri, tracking.experiment, artifact_root(multirun))
