"""The mirror in a database that no server stands in front of: SQLite beside the results, or PostgreSQL.

Rows are inserted into MLflow's own tables (its SQLAlchemy models, of the pinned version) instead of through its client:
a batch of runs is one transaction, so that a kill leaves no half-made run, and a run costs a quarter of the time. A test
holds this mirror and the one through the client to the same runs, field by field.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.tracking.mirror import Found, RecordRefused, TrackerUnavailable
from src.tracking.record import Key, Record, mask
from src.tracking.schema import Experiment, problem_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

BUSY_TIMEOUT_S = 20


class DatabaseMirror:
    """Writes batches of records in one transaction each. Not for use by two threads at once."""

    def __init__(self, uri: str, experiment: Experiment, artifacts: Path) -> None:
        import sqlalchemy
        from mlflow.store.tracking.dbmodels import models

        self._experiment = experiment
        self._artifacts = artifacts
        self._sqlite = uri.startswith("sqlite")
        waiting = {"timeout": BUSY_TIMEOUT_S} if self._sqlite else {"connect_timeout": 5} if "postgres" in uri else {}
        self._engine = sqlalchemy.create_engine(uri, connect_args=waiting, pool_pre_ping=True)
        self._runs, self._tags, self._params = (
            _table(model) for model in (models.SqlRun, models.SqlTag, models.SqlParam)
        )
        self._metrics, self._latest = _table(models.SqlMetric), _table(models.SqlLatestMetric)
        self._datasets, self._inputs, self._input_tags = (
            _table(model) for model in (models.SqlDataset, models.SqlInput, models.SqlInputTag)
        )

    def close(self) -> None:
        self._engine.dispose()

    def write(self, records: Sequence[Record]) -> int:
        """See `Mirror.write`: all of them in one transaction."""
        from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

        try:
            with self._engine.connect() as connection:
                if self._sqlite:
                    connection.exec_driver_sql("PRAGMA synchronous=NORMAL")  # a mirror can be rebuilt from the results
                    connection.exec_driver_sql("BEGIN IMMEDIATE")  # look up and insert as one: nobody writes between
                n_written = self._write(connection, records)
                connection.commit()
            return n_written
        except (DataError, IntegrityError) as error:
            if len(records) == 1:
                raise RecordRefused(records[0].key, str(error)) from error
            return sum(self.write([record]) for record in records)  # so that only the bad one is refused
        except (SQLAlchemyError, OSError) as error:
            raise TrackerUnavailable(problem_of(error)) from error

    def _write(self, connection: Connection, records: Sequence[Record]) -> int:
        wanted = [record.key for record in records]
        for record in records:
            wanted += [parent.key for parent in _parents(record)]
        found = self._find(connection, set(wanted))
        rows = _Rows()
        n_written = 0
        for record in records:
            for parent in reversed(_parents(record)):
                if parent.key not in found:
                    found[parent.key] = self._add(rows, parent, found)
            known = found.get(record.key)
            if known is not None and known.says(record):
                continue
            if known is not None:
                self._forget(connection, rows, known.run_id)
            found[record.key] = self._add(rows, record, found)
            n_written += 1
        self._insert(connection, rows)
        return n_written

    def _find(self, connection: Connection, keys: Collection[Key]) -> dict[Key, Found]:
        """The runs of those keys, by their tags: whoever wrote them, this mirror or a server over the same database."""
        from sqlalchemy import select

        tags, runs = self._tags.c, self._runs.c
        candidates: set[str] = set()
        for level, name in (("run", "run"), ("cell", "cell"), ("sweep", "sweep")):
            values = {getattr(key, name) for key in keys if key.level == level}
            if values:
                of_level = select(tags.run_uuid).where(tags.key == "level", tags.value == level)
                query = select(tags.run_uuid).where(tags.key == name, tags.value.in_(values))
                candidates |= set(connection.scalars(query.where(tags.run_uuid.in_(of_level))))
        said: dict[str, dict[str, str]] = {}
        names = ("level", "sweep", "cell", "run", "record")
        for run_id, name, value in connection.execute(
            select(tags.run_uuid, tags.key, tags.value).where(tags.run_uuid.in_(candidates), tags.key.in_(names))
        ):
            said.setdefault(run_id, {})[name] = value
        found: dict[Key, Found] = {}
        for run_id, status, start, stage in connection.execute(
            select(runs.run_uuid, runs.status, runs.start_time, runs.lifecycle_stage)
            .where(runs.run_uuid.in_(candidates), runs.experiment_id == int(self._experiment.id))
            .order_by(runs.start_time, runs.run_uuid)
        ):
            tag = said[run_id]
            key = Key(tag["level"], tag["sweep"], tag.get("cell", ""), tag.get("run", ""))  # type: ignore[arg-type]
            if key in keys and key not in found:
                # A run that somebody deleted in the UI is on disk still: written again, it comes back.
                found[key] = Found(run_id, tag.get("record", "") if stage == "active" else "", status, start)
        return found

    def _forget(self, connection: Connection, rows: _Rows, run_id: str) -> None:
        """Remove what is known of a run, in the database and among the rows to come."""
        from sqlalchemy import delete, select

        inputs = select(self._inputs.c.input_uuid).where(self._inputs.c.destination_id == run_id)
        connection.execute(delete(self._input_tags).where(self._input_tags.c.input_uuid.in_(inputs)))
        connection.execute(
            delete(self._inputs).where(
                self._inputs.c.destination_id == run_id, self._inputs.c.destination_type == "RUN"
            )
        )
        for table in (self._tags, self._params, self._metrics, self._latest):
            connection.execute(delete(table).where(table.c.run_uuid == run_id))
        connection.execute(delete(self._runs).where(self._runs.c.run_uuid == run_id))
        rows.forget(run_id)

    def _add(self, rows: _Rows, record: Record, found: dict[Key, Found]) -> Found:
        known = found.get(record.key)
        run_id = known.run_id if known else _run_id(self._experiment.id, record.key)
        start = record.start if known is None or record.key.level == "run" else min(known.start, record.start)
        location = f"{self._experiment.artifact_location}/{run_id}/artifacts"
        parent = found[record.parent.key].run_id if record.parent else None
        rows.add(record, run_id, start, location, int(self._experiment.id), parent)
        self._write_artifacts(location, record)
        return Found(run_id, record.digest(), record.status, start)

    def _write_artifacts(self, location: str, record: Record) -> None:
        scheme = "mlflow-artifacts:/"
        if not record.artifacts:
            return
        if not location.startswith(scheme):
            raise TrackerUnavailable(
                f"the experiment keeps its files at {mask(location)}; choose another name by tracking.experiment=NAME"
            )
        folder = self._artifacts / location.removeprefix(scheme).lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in record.artifacts.items():
            (folder / name).write_bytes(content)

    def _insert(self, connection: Connection, rows: _Rows) -> None:
        from sqlalchemy import insert, select

        names = {row["name"] for row in rows.datasets.values()}
        there = select(self._datasets.c.name, self._datasets.c.digest, self._datasets.c.dataset_uuid).where(
            self._datasets.c.experiment_id == int(self._experiment.id), self._datasets.c.name.in_(names)
        )
        ids = {(name, digest): dataset_id for name, digest, dataset_id in connection.execute(there)} if names else {}
        for row in rows.inputs:
            row["source_id"] = ids.get(row.pop("dataset"), row["source_id"])
        new = [row for key, row in rows.datasets.items() if key not in ids]
        for table, content in (
            (self._runs, rows.runs),
            (self._tags, rows.tags),
            (self._params, rows.params),
            (self._metrics, rows.metrics),
            (self._latest, rows.latest),
            (self._datasets, new),
            (self._inputs, rows.inputs),
            (self._input_tags, rows.input_tags),
        ):
            if content:
                connection.execute(insert(table), content)


class _Rows:
    """What a transaction is going to insert, table by table."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.tags: list[dict[str, Any]] = []
        self.params: list[dict[str, Any]] = []
        self.metrics: list[dict[str, Any]] = []
        self.latest: list[dict[str, Any]] = []
        self.inputs: list[dict[str, Any]] = []
        self.input_tags: list[dict[str, Any]] = []
        self.datasets: dict[tuple[str, str], dict[str, Any]] = {}

    def forget(self, run_id: str) -> None:
        dropped = {row["input_uuid"] for row in self.inputs if row["destination_id"] == run_id}
        self.inputs = [row for row in self.inputs if row["input_uuid"] not in dropped]
        self.input_tags = [row for row in self.input_tags if row["input_uuid"] not in dropped]
        for name in ("runs", "tags", "params", "metrics", "latest"):
            setattr(self, name, [row for row in getattr(self, name) if row["run_uuid"] != run_id])

    def add(self, record: Record, run_id: str, start: int, location: str, experiment: int, parent: str | None) -> None:
        self.runs.append(
            {
                "run_uuid": run_id,
                "name": record.name,
                "source_type": "UNKNOWN",
                "source_name": "",
                "entry_point_name": "",
                "source_version": "",
                "user_id": "unknown",
                "status": record.status,
                "start_time": start,
                "end_time": None if record.status == "SCHEDULED" else record.end,
                "deleted_time": None,
                "lifecycle_stage": "active",
                "artifact_uri": location,
                "experiment_id": experiment,
            }
        )
        said = record.all_tags(parent).items()
        self.tags += [{"run_uuid": run_id, "key": name, "value": value} for name, value in said]
        self.params += [{"run_uuid": run_id, "key": name, "value": value} for name, value in record.params.items()]
        latest: dict[str, dict[str, Any]] = {}
        for name, value, timestamp, step in dict.fromkeys(record.points):
            row = {"run_uuid": run_id, "key": name, "timestamp": timestamp, "step": step}
            row |= {"value": 0.0, "is_nan": True} if math.isnan(value) else {"value": value, "is_nan": False}
            self.metrics.append(row)
            if name not in latest or _order(row) > _order(latest[name]):
                latest[name] = row
        self.latest += latest.values()
        for item in record.inputs:
            dataset = self.datasets.setdefault(
                (item.name, item.digest),
                {
                    "dataset_uuid": _id(str(experiment), item.name, item.digest),
                    "experiment_id": experiment,
                    "name": item.name,
                    "digest": item.digest,
                    "dataset_source_type": "split",
                    "dataset_source": item.source,
                    "dataset_schema": item.schema,
                    "dataset_profile": item.profile,
                },
            )
            input_id = _id(run_id, item.name, item.digest)
            self.inputs.append(
                {
                    "input_uuid": input_id,
                    "source_type": "DATASET",
                    "source_id": dataset["dataset_uuid"],
                    "dataset": (item.name, item.digest),
                    "destination_type": "RUN",
                    "destination_id": run_id,
                }
            )
            self.input_tags.append({"input_uuid": input_id, "name": "mlflow.data.context", "value": item.context})


def _table(model: type) -> Any:
    return model.__table__  # type: ignore[attr-defined]


def _parents(record: Record) -> list[Record]:
    """The record's parent, its parent's parent, ..."""
    parents = []
    while record.parent is not None:
        record = record.parent
        parents.append(record)
    return parents


def _order(row: dict[str, Any]) -> tuple[int, int, float]:
    """Which of a metric's values MLflow calls the latest."""
    return row["step"], row["timestamp"], row["value"]


def _id(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32]


def _run_id(experiment_id: str, key: Key) -> str:
    """Derived from the key, so that links to a run outlive a database that is rebuilt from disk."""
    return _id(experiment_id, *key)
