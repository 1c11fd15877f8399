"""MLflow's tables in a database that no server stands in front of: made, upgraded and checked once, under a lock."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from src.tracking.mirror import TrackerUnavailable
from src.tracking.record import mask
from src.tracking.views import saved_views

LOCK_TIMEOUT_S = 60


class Experiment(NamedTuple):
    id: str
    artifact_location: str


def prepare(uri: str, experiment: str, lock: Path) -> Experiment:
    """Create or upgrade MLflow's schema and the experiment, one process at a time; cheap when all is there.

    A new SQLite file is built beside its place and moved there whole: MLflow's migrations, killed half-way, leave a file
    that they cannot go on with. An older schema is upgraded by MLflow's own migrations, a SQLite file being copied to ``*.before-upgrade`` first.
    Raises `TrackerUnavailable` with what to do.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=LOCK_TIMEOUT_S):
            return _prepare(uri, experiment)
    except Timeout as error:
        raise TrackerUnavailable(f"another process holds {lock} for over {LOCK_TIMEOUT_S} s") from error


def _prepare(uri: str, experiment: str) -> Experiment:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    file = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    try:
        if file is not None and not file.exists():
            _build(file)
        _upgrade(uri, file)
        client = MlflowClient(uri)  # creates all tables in an empty database
        if file is not None:
            # Readers (the UI) then never block the writer; the mode stays with the file.
            with contextlib.closing(sqlite3.connect(file)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
        known = client.get_experiment_by_name(experiment)
        if known is None:
            # Not an absolute path: the server resolves it against its --artifacts-destination, so multirun/ can move.
            location = "mlflow-artifacts:/" + re.sub(r"[^\w.\-]", "_", experiment)
            known = client.get_experiment(client.create_experiment(experiment, artifact_location=location))
        elif known.lifecycle_stage == "deleted":
            client.restore_experiment(known.experiment_id)
        for tag, value in saved_views().items():
            if tag not in known.tags:  # a view that the user has changed stays as it is
                client.set_experiment_tag(known.experiment_id, tag, value)
        return Experiment(known.experiment_id, known.artifact_location)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise TrackerUnavailable(problem_of(error)) from error


def problem_of(error: Exception) -> str:
    """What is wrong with the database, in words; what to do where it is the file itself."""
    cause = getattr(error, "orig", None) or error
    if type(cause) is sqlite3.DatabaseError:  # its subclasses are about a statement, or about a lock
        return f"its database is damaged ({cause}): move mlflow.db away, and `make sync` writes it again"
    return mask(str(error))


def _build(file: Path) -> None:
    """Makes the SQLite file with MLflow's tables, whole or not at all; the caller holds the lock."""
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine

    scratch = file.with_name(f".{file.name}.tmp")
    for left in (scratch.with_name(f"{scratch.name}-journal"), scratch):  # of a process that was killed here
        left.unlink(missing_ok=True)
    engine = create_engine(f"sqlite:///{scratch}")
    try:
        _initialize_tables(engine)  # type: ignore[no-untyped-call]
    finally:
        engine.dispose()
    for end in (
        "-wal",
        "-shm",
        "-journal",
    ):  # of a file that was moved away without them: SQLite would play them into this one
        file.with_name(f"{file.name}{end}").unlink(missing_ok=True)
    os.replace(scratch, file)


def _copy(file: Path, to: Path) -> None:
    """A copy of a SQLite file with what its journal holds."""
    with contextlib.closing(sqlite3.connect(file)) as source, contextlib.closing(sqlite3.connect(to)) as copy:
        source.backup(copy)


def _upgrade(uri: str, file: Path | None) -> None:
    """Bring the tables of another MLflow up to those of the installed one, by MLflow's own migrations."""
    import mlflow
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util.exc import CommandError
    from sqlalchemy import create_engine

    if file is not None and not file.exists():
        return
    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations"
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    engine = create_engine(uri)
    try:
        with engine.begin() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
            if revision is None or revision == ScriptDirectory.from_config(config).get_current_head():
                return
            if file is not None:
                _copy(file, file.with_name(f"{file.name}.before-upgrade"))
            config.attributes["connection"] = connection
            command.upgrade(config, "heads")
    except CommandError as error:
        raise TrackerUnavailable(
            f"{mask(str(error))}: was {mask(uri)} written by a newer MLflow? Install that"
        ) from error
    finally:
        engine.dispose()
