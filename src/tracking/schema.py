"""Creates and upgrades MLflow's tables in a database without a server, by `mlflow db upgrade`, under a lock."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import mlflow
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.db import upgrade
from mlflow.exceptions import MlflowException
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError

from src.io import sync_folder
from src.locks import acquire, holder
from src.tracking.client import ensure_experiment
from src.tracking.record import mask
from src.tracking.tracker import Experiment, TrackerUnavailable, artifact_location, describe
from src.urls import sqlite_file, sqlite_url

LOCK_TIMEOUT_S = 60


def prepare(uri: str, experiment: str, lock: Path) -> Experiment:
    """Create or upgrade MLflow's tables and the experiment, one process at a time.

    A new SQLite file is built under a temporary name and then renamed, because MLflow cannot resume a migration that
    was killed. An older SQLite file is first copied to ``*.before-upgrade``.
    Raises TrackerUnavailable, with the fix.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    if not acquire(held, LOCK_TIMEOUT_S):
        raise TrackerUnavailable(f"{lock} is held for over {LOCK_TIMEOUT_S} s by {holder(lock)}")
    try:
        return _prepare(uri, experiment)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise TrackerUnavailable(describe(error)) from error
    finally:
        held.release()


def known_revisions() -> list[str]:
    """The schema revisions that the installed MLflow can read or upgrade, its own first."""
    migrations = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    return [script.revision for script in migrations.walk_revisions()]


def _prepare(uri: str, experiment: str) -> Experiment:
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        _create(file)
    else:
        _upgrade(uri, file)
    client = MlflowClient(uri)  # creates the tables of an empty database
    if file is not None:
        # The write-ahead log keeps readers (the UI) from blocking the writer; the mode stays with the file.
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    return ensure_experiment(client, experiment, artifact_location(experiment))


def _create(file: Path) -> None:
    scratch = file.with_name(f".{file.name}.tmp")
    for leftover in (scratch.with_name(f"{scratch.name}-journal"), scratch):  # of a process that was killed here
        leftover.unlink(missing_ok=True)
    _mlflow_db_upgrade(sqlite_url(scratch))
    for suffix in ("-wal", "-shm", "-journal"):  # of a deleted database: SQLite would replay them into the new one
        file.with_name(f"{file.name}{suffix}").unlink(missing_ok=True)
    os.replace(scratch, file)
    sync_folder(file.parent)


def _upgrade(uri: str, file: Path | None) -> None:
    with create_engine(uri, poolclass=NullPool).connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    known = known_revisions()
    if revision in (None, known[0]):
        return
    if revision not in known:
        raise TrackerUnavailable(f"{mask(uri)} has schema {revision} of a newer MLflow; install that version")
    if file is not None:
        target = file.with_name(f"{file.name}.before-upgrade")
        with contextlib.closing(sqlite3.connect(file)) as source, contextlib.closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
    _mlflow_db_upgrade(uri)


def _mlflow_db_upgrade(uri: str) -> None:
    """Run the command `mlflow db upgrade` in this process."""
    upgrade.main(args=[uri], standalone_mode=False)
