"""The bulk writer: inserts a batch of runs into MLflow's own tables in one transaction.

It saves 20 to 40 ms of processor time a run against MLflow's client, which is the reference. `incompatibility` compares
MLflow's version and the columns of the tables with those listed here; anything unknown switches this writer off.
`finished_sweeps` reads the tables for the addresses of MLflow's pages.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Inspector, NullPool, column, create_engine, delete, insert, inspect, select, table
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from src.tracking.record import Key, Record
from src.tracking.tracker import (
    Experiment,
    RecordRefused,
    StoredRun,
    TrackerUnavailable,
    artifact_location,
    describe,
    write_artifacts,
)
from src.tracking.views import is_ours, saved_views
from src.urls import sqlite_file

KNOWN_REVISIONS = {"3.17.2": "dc11669786a5"}
"""The versions of MLflow whose tables were compared with what its client writes, and their schema (tests/tracking)."""

COLUMNS = {
    "runs": "run_uuid name source_type source_name entry_point_name user_id status start_time end_time source_version "
    "lifecycle_stage artifact_uri experiment_id deleted_time",
    "tags": "key value run_uuid",
    "params": "key value run_uuid",
    "metrics": "key value timestamp run_uuid step is_nan",
    "latest_metrics": "key value timestamp step is_nan run_uuid",
    "datasets": "dataset_uuid experiment_id name digest dataset_source_type dataset_source dataset_schema "
    "dataset_profile",
    "inputs": "input_uuid source_type source_id destination_type destination_id step",
    "input_tags": "input_uuid name value",
    "experiments": "experiment_id name artifact_location lifecycle_stage creation_time last_update_time workspace",
    "experiment_tags": "key value experiment_id",
}
"""All columns of the tables that are written, in the order of insertion."""

TABLES: dict[str, Any] = {name: table(name, *map(column, columns.split())) for name, columns in COLUMNS.items()}
OF_EVERY_RUN = {
    **dict.fromkeys(("source_name", "entry_point_name", "source_version"), ""),
    "source_type": "UNKNOWN",
    "user_id": "unknown",
    "lifecycle_stage": "active",
    "deleted_time": None,
}
"""Columns of `runs` that are the same for all."""
OF_A_RUN = ("tags", "params", "metrics", "latest_metrics", "runs")
BUSY_TIMEOUT_S = 20

Rows = defaultdict[str, list[dict[str, Any]]]


def incompatibility(uri: str) -> str | None:
    """Why this writer must not be used on the database; None if it may."""
    version = importlib.metadata.version("mlflow")
    if version not in KNOWN_REVISIONS:
        return f"MLflow {version} is installed, {', '.join(KNOWN_REVISIONS)} is known"
    try:
        with create_engine(uri, poolclass=NullPool).connect() as connection:
            return _unknown_columns(inspect(connection))
    except SQLAlchemyError as error:
        raise TrackerUnavailable(describe(error)) from error


def _unknown_columns(inspector: Inspector) -> str | None:
    for name, columns in COLUMNS.items():
        difference = {found["name"] for found in inspector.get_columns(name)} ^ set(columns.split())
        if difference:
            return f"the columns of MLflow's table {name} differ from the known ones: {', '.join(difference)}"
    return None


def open_experiment(uri: str, name: str) -> Experiment | None:
    """The experiment of a SQLite file, created if there is none; None where MLflow may have something to create or
    upgrade.

    MLflow takes 4 s of processor time to start, and most commands find everything in place.
    """
    file, revision = sqlite_file(uri), KNOWN_REVISIONS.get(importlib.metadata.version("mlflow"))
    if file is None or revision is None or not file.exists():
        return None
    experiments, tags = TABLES["experiments"], TABLES["experiment_tags"].c
    engine = create_engine(uri, poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT_S})
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # no other command creates it meanwhile
            revisions = connection.scalars(select(table("alembic_version", column("version_num")))).all()
            if revisions != [revision] or _unknown_columns(inspect(connection)):
                return None
            known = (experiments.c.name == name) & (experiments.c.workspace == "default")
            if not connection.execute(select(experiments.c.name).where(known)).all():
                _create_experiment(connection, name)
                connection.commit()
            found = connection.execute(select(experiments).where(known)).one()
            present = set(connection.scalars(select(tags.key).where(tags.experiment_id == found.experiment_id)))
    except SQLAlchemyError:  # MLflow says what is wrong, or mends it
        return None
    if found.lifecycle_stage != "active" or not saved_views().keys() <= present:
        return None
    return Experiment(str(found.experiment_id), found.artifact_location)


def _create_experiment(connection: Connection, name: str) -> None:
    now = round(1000 * time.time())
    row: dict[str, Any] = {"name": name, "artifact_location": artifact_location(name), "lifecycle_stage": "active"}
    row |= {"creation_time": now, "last_update_time": now, "workspace": "default"}
    created = connection.execute(insert(TABLES["experiments"]), row).lastrowid
    views = [{"key": key, "value": value, "experiment_id": created} for key, value in saved_views().items()]
    connection.execute(insert(TABLES["experiment_tags"]), views)


class BulkTracker:
    """Writes each batch of records in one transaction; not thread-safe."""

    def __init__(self, uri: str, experiment: Experiment, artifacts: Path) -> None:
        self._experiment = experiment
        self._experiment_id = int(experiment.id)
        self._artifacts = artifacts
        self._sqlite = uri.startswith("sqlite")
        timeout = {"timeout": BUSY_TIMEOUT_S} if self._sqlite else {"connect_timeout": 5} if "postgres" in uri else {}
        self._engine = create_engine(uri, connect_args=timeout, pool_pre_ping=True)

    def close(self) -> None:
        self._engine.dispose()

    def write(self, records: Sequence[Record]) -> int:
        """See `Tracker.write`: all records in one transaction."""
        try:
            with self._engine.connect() as connection:
                if self._sqlite:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")  # no other writer between look-up and insertion
                n_written = self._write(connection, records)
                connection.commit()
            return n_written
        except (DataError, IntegrityError) as error:
            if len(records) == 1:
                raise RecordRefused(records[0].key, str(error)) from error
            return sum(self.write([record]) for record in records)  # so that only the invalid record is refused
        except (SQLAlchemyError, OSError) as error:
            raise TrackerUnavailable(describe(error)) from error

    def _write(self, connection: Connection, records: Sequence[Record]) -> int:
        pending: dict[Key, Record] = {}  # of several records with one key the last counts
        for record in records:
            for parent in reversed(_ancestors(record)):
                pending.setdefault(parent.key, parent)
            pending[record.key] = record
        stored = self._find(connection, pending.keys())
        given = {id(record) for record in records}
        rows: Rows = defaultdict(list)
        n_written = 0
        for key, record in pending.items():
            known = stored.get(key)
            if known is not None and (id(record) not in given or known.matches(record)):
                continue
            run_id, start, parent_id = self._run_id(key), record.start, None
            if known is not None:
                self._delete(connection, known.run_id)
                run_id, start = known.run_id, start if key.level == "run" else min(start, known.start)
            if record.parent is not None:
                stored_parent = stored.get(record.parent.key)
                parent_id = stored_parent.run_id if stored_parent else self._run_id(record.parent.key)
            self._add(rows, record, run_id, start, parent_id)
            n_written += id(record) in given
            self._save_views(connection, record.views)
        self._insert(connection, rows)
        return n_written

    def _save_views(self, connection: Connection, views: Mapping[str, str]) -> None:
        tags = TABLES["experiment_tags"]
        mine = (tags.c.experiment_id == self._experiment_id) & tags.c.key.in_(views)
        present = {key: value for key, value, _ in connection.execute(select(tags).where(mine))} if views else {}
        for key, view in views.items():
            if is_ours(present.get(key, view)):
                connection.execute(delete(tags).where(tags.c.experiment_id == self._experiment_id, tags.c.key == key))
                row = {"key": key, "value": view, "experiment_id": self._experiment_id}
                connection.execute(insert(tags), row)

    def _find(self, connection: Connection, keys: Collection[Key]) -> dict[Key, StoredRun]:
        """The runs of the keys by their tags, whichever writer created them."""
        tags, runs = TABLES["tags"].c, TABLES["runs"].c
        candidates: set[str] = set()
        for level in ("run", "cell", "sweep"):
            values = {getattr(key, level) for key in keys if key.level == level}
            of_level = select(tags.run_uuid).where(tags.key == "level", tags.value == level)
            query = select(tags.run_uuid).where(tags.key == level, tags.value.in_(values))
            candidates |= set(connection.scalars(query.where(tags.run_uuid.in_(of_level)))) if values else set()
        tags_of: defaultdict[str, dict[str, str]] = defaultdict(dict)
        names = ("level", "sweep", "cell", "run", "record")
        for run_id, name, value in connection.execute(
            select(tags.run_uuid, tags.key, tags.value).where(tags.run_uuid.in_(candidates), tags.key.in_(names))
        ):
            tags_of[run_id][name] = value
        stored: dict[Key, StoredRun] = {}
        for run_id, status, start, stage in connection.execute(
            select(runs.run_uuid, runs.status, runs.start_time, runs.lifecycle_stage)
            .where(runs.run_uuid.in_(candidates), runs.experiment_id == self._experiment_id)
            .order_by(runs.start_time, runs.run_uuid)
        ):
            if (key := Key.of_tags(tags_of[run_id])) in keys:
                # Without its digest, a run that was deleted in the UI is written again.
                digest = tags_of[run_id].get("record", "") if stage == "active" else ""
                stored.setdefault(key, StoredRun(run_id, digest, status, start))
        return stored

    def _delete(self, connection: Connection, run_id: str) -> None:
        inputs = TABLES["inputs"].c
        mine = (inputs.destination_id == run_id) & (inputs.destination_type == "RUN")
        input_tags = TABLES["input_tags"]
        connection.execute(delete(input_tags).where(input_tags.c.input_uuid.in_(select(inputs.input_uuid).where(mine))))
        connection.execute(delete(TABLES["inputs"]).where(mine))
        for name in OF_A_RUN:
            connection.execute(delete(TABLES[name]).where(TABLES[name].c.run_uuid == run_id))

    def _run_id(self, key: Key) -> str:
        """Derived from the key, so that links to a run survive a rebuild of the database."""
        return _id(self._experiment.id, *key)

    def _add(self, rows: Rows, record: Record, run_id: str, start: int, parent_id: str | None) -> None:
        location = f"{self._experiment.artifact_location}/{run_id}/artifacts"
        write_artifacts(self._artifacts, location, record.artifacts)
        rows["runs"].append(
            {
                **OF_EVERY_RUN,
                "run_uuid": run_id,
                "experiment_id": self._experiment_id,
                "artifact_uri": location,
                "name": record.name,
                "status": record.status,
                "start_time": start,
                "end_time": None if record.status == "SCHEDULED" else record.end,
            }
        )
        for name, values in (("tags", record.all_tags(parent_id)), ("params", record.params)):
            rows[name] += [{"run_uuid": run_id, "key": key, "value": value} for key, value in values.items()]
        latest: dict[str, dict[str, Any]] = {}
        for name, value, timestamp, step in dict.fromkeys(record.points):
            row = {"run_uuid": run_id, "key": name, "timestamp": timestamp, "step": step}
            row |= {"value": 0.0, "is_nan": True} if math.isnan(value) else {"value": value, "is_nan": False}
            rows["metrics"].append(row)
            if name not in latest or _order(row) > _order(latest[name]):
                latest[name] = row
        rows["latest_metrics"] += latest.values()
        for item in record.inputs:
            dataset_id = _id(self._experiment.id, item.name, item.digest)
            input_id = _id(run_id, item.name, item.digest)
            dataset = {"dataset_uuid": dataset_id, "experiment_id": self._experiment_id, "name": item.name}
            dataset |= {"digest": item.digest, "dataset_source_type": "split", "dataset_source": item.source}
            rows["datasets"].append({**dataset, "dataset_schema": item.schema, "dataset_profile": item.profile})
            link = {"source_type": "DATASET", "source_id": dataset_id, "destination_type": "RUN"}
            rows["inputs"].append({"input_uuid": input_id, **link, "destination_id": run_id})
            rows["input_tags"].append({"input_uuid": input_id, "name": "mlflow.data.context", "value": item.context})

    def _insert(self, connection: Connection, rows: Rows) -> None:
        """Inserts all rows; data sets that exist already, under whatever id, are referred to instead."""
        datasets = {row["dataset_uuid"]: row for row in rows["datasets"]}
        columns = TABLES["datasets"].c
        query = select(columns.name, columns.digest, columns.dataset_uuid).where(
            columns.experiment_id == self._experiment_id, columns.name.in_({row["name"] for row in datasets.values()})
        )
        found = connection.execute(query) if datasets else ()
        existing = {_id(self._experiment.id, name, digest): uuid for name, digest, uuid in found}
        rows["datasets"] = [row for uuid, row in datasets.items() if uuid not in existing]
        for row in rows["inputs"]:
            row["source_id"] = existing.get(row["source_id"], row["source_id"])
        for name, target in TABLES.items():
            if rows[name]:
                connection.execute(insert(target), rows[name])


def _ancestors(record: Record) -> list[Record]:
    """The record's parent, its parent's parent, ..."""
    return [record.parent, *_ancestors(record.parent)] if record.parent is not None else []


def _order(row: dict[str, Any]) -> tuple[int, int, float]:
    """MLflow's latest value of a metric is the one with the largest key."""
    return row["step"], row["timestamp"], row["value"]


def _id(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32]


def finished_sweeps(uri: str) -> dict[str, str]:
    """The ids of the experiments of the sweeps that have a result, by the sweeps' names, the one that ended last first.

    None where the database cannot be read yet.
    """
    runs, tags = TABLES["runs"].c, TABLES["tags"].c
    is_sweep = select(tags.run_uuid).where(tags.key == "level", tags.value == "sweep")
    of_sweeps = runs.run_uuid.in_(is_sweep) & (runs.lifecycle_stage == "active") & (runs.status == "FINISHED")
    query = select(runs.name, runs.experiment_id).where(of_sweeps).order_by(runs.end_time.desc())
    found: dict[str, str] = {}
    with suppress(SQLAlchemyError), create_engine(uri, poolclass=NullPool).connect() as connection:
        for name, experiment in connection.execute(query):
            found.setdefault(name, str(experiment))
    return found
