"""The reference writer: MLflow's client, in front of a tracking server or of a database.

A run takes several requests, so a kill can leave one incomplete, in status RUNNING. Its tags identify the record: the
next delivery finds the run and sends everything again, which MLflow accepts without duplicates.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from http.client import RemoteDisconnected
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException

from src.environment import temporary_variables
from src.tracking.record import Key, Record, mask
from src.tracking.tracker import Experiment, RecordRefused, StoredRun, TrackerUnavailable, write_artifacts
from src.tracking.views import is_ours, saved_views

TIMEOUT_S = 10
"""Limit of one request. A slower server counts as unavailable; nothing is lost."""

MAX_ITEMS = 1000
MAX_PARAMS = 100
"""MLflow's limits of one batch: metrics and params together, and params alone."""
REFUSED = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})

TRIES = 8
"""Of one request. With a quarter of all answers lost, one in 65,536 requests remains without."""
ONCE = frozenset({"create_run", "delete_run", "create_experiment"})
"""Methods of the client that are not repeated."""
FAILURES = (MlflowException, RequestException, OSError)
"""What a request raises."""


def is_lost(error: BaseException | None) -> bool:
    """Whether the connection was there and closed before an answer came. It is the cause, or the context, of others."""
    if error is None or isinstance(error, (RemoteDisconnected, ConnectionResetError)):
        return error is not None
    return is_lost(error.__cause__) or is_lost(error.__context__)


class RepeatingClient:
    """MLflow's client, all of whose requests but those of `ONCE` are repeated while their answers are lost.

    The server may have executed a request before it closed the connection without an answer. MLflow's own retries
    repeat every request, also the creation of a run, which then exists twice; they are off.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name in ONCE:
            return method

        def repeated(*arguments: Any, **settings: Any) -> Any:
            for _ in range(TRIES - 1):
                try:
                    return method(*arguments, **settings)
                except FAILURES as error:
                    if not is_lost(error):
                        raise
            return method(*arguments, **settings)

        return repeated


def ensure_experiment(client: Any, name: str, artifact_location: str | None = None) -> Experiment:
    """Creates or restores the experiment and adds the saved views that it lacks."""
    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            client.create_experiment(name, artifact_location=artifact_location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another sweep has created it meanwhile
                raise
        known = client.get_experiment_by_name(name)
    if known.lifecycle_stage == "deleted":
        client.restore_experiment(known.experiment_id)
    for tag, value in saved_views().items():
        if tag not in known.tags:  # keep a view that the user has changed
            client.set_experiment_tag(known.experiment_id, tag, value)
    return Experiment(str(known.experiment_id), known.artifact_location)


class ClientTracker:
    """Writes records one by one; not thread-safe.

    Caches the runs that it finds and writes for one batch: meanwhile the outbox's lock makes it the only writer.

    Args:
        artifacts: The folder of artifacts if `uri` is a database; None if a server takes them.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path | None = None) -> None:
        self._artifacts = artifacts
        self._stored: dict[Key, StoredRun] = {}
        self._searched: set[tuple[str, str]] = set()
        with _translated_errors():
            self._client: Any = RepeatingClient(MlflowClient(uri))
            self._experiment = ensure_experiment(self._client, experiment).id

    def close(self) -> None:
        """The client keeps no connection of its own."""

    def write(self, records: Sequence[Record]) -> int:
        """See `Tracker.write`. Runs written before an error stay."""
        self._stored, self._searched = {}, set()
        n_written = 0
        for record in records:
            with _translated_errors(record.key):
                n_written += self._write(record)
        return n_written

    def _find(self, key: Key) -> StoredRun | None:
        """The run of a key. One search fetches all runs of a cell, or the run of the sweep."""
        scope = (key.sweep, key.cell)
        if scope not in self._searched:
            query = f"tags.sweep = {_quoted(key.sweep)}"
            query += f" AND tags.cell = {_quoted(key.cell)}" if key.cell else " AND tags.level = 'sweep'"
            token: str | None = ""
            while token is not None:
                page = self._client.search_runs(
                    [self._experiment], query, max_results=1000, page_token=token, order_by=["attributes.start_time"]
                )
                for run in page:
                    self._cache(run)
                token = page.token or None
            self._searched.add(scope)
        return self._stored.get(key)

    def _cache(self, run: Any) -> None:
        tags, key = run.data.tags, Key.of_tags(run.data.tags)
        stored = StoredRun(run.info.run_id, tags.get("record", ""), run.info.status, run.info.start_time)
        first = self._stored.setdefault(key, stored)
        if first.run_id == stored.run_id:  # the only one, or seen by an earlier search
            self._stored[key] = stored
            return
        # The server may have executed a request that timed out here: keep one run of the two, a complete one if any.
        kept, extra = (stored, first) if first.status == "RUNNING" and stored.status != "RUNNING" else (first, stored)
        self._stored[key] = kept
        self._delete(extra)

    def _delete(self, stored: StoredRun) -> None:
        if stored.status == "RUNNING":
            self._client.set_terminated(stored.run_id, "KILLED")
        self._client.delete_run(stored.run_id)

    def _write(self, record: Record) -> int:
        parent = self._parent_id(record)
        stored = self._find(record.key)
        if stored is not None and stored.matches(record):
            return 0
        if stored is not None and record.key.level == "run" and stored.digest != record.digest():
            self._delete(stored)  # a failed run that was retried, or a result with other content
            del self._stored[record.key]
            stored = None
        if stored is None:
            stored = self._create(record, parent)
        elif record.key.level != "run":
            self._update_parent(stored, record, parent)
        self._complete(stored.run_id, record)
        self._save_views(record.views)
        self._stored[record.key] = StoredRun(stored.run_id, record.digest(), record.status, stored.start)
        return 1

    def _create(self, record: Record, parent: str | None) -> StoredRun:
        """A new run. If the answer is lost, the run that the server may have made is searched for before a retry."""
        for attempt in range(TRIES):
            try:
                run = self._client.create_run(
                    self._experiment, start_time=record.start, tags=record.all_tags(parent), run_name=record.name
                )
                return StoredRun(run.info.run_id, record.digest(), "RUNNING", record.start)
            except FAILURES as error:
                if not is_lost(error) or attempt == TRIES - 1:
                    raise
            self._searched.discard((record.key.sweep, record.key.cell))
            if (found := self._find(record.key)) is not None:
                return found
        raise AssertionError("the last attempt returns or raises")

    def _save_views(self, views: Mapping[str, str]) -> None:
        present = self._client.get_experiment(self._experiment).tags if views else {}
        for tag, view in views.items():
            if present.get(tag) != view and is_ours(present.get(tag, view)):
                self._client.set_experiment_tag(self._experiment, tag, view)

    def _parent_id(self, record: Record) -> str | None:
        if record.parent is None:
            return None
        stored = self._find(record.parent.key)
        if stored is None or stored.status == "RUNNING":
            self._write(record.parent)
            stored = self._stored[record.parent.key]
        return stored.run_id

    def _update_parent(self, stored: StoredRun, record: Record, parent: str | None) -> None:
        """Updates a cell or a sweep in place, because its children refer to its id."""
        tags = record.all_tags(parent) | {"record": ""}  # the digest is set once the content is complete
        metrics = self._client.get_run(stored.run_id).data.metrics
        removed = metrics.keys() - {point.name for point in record.points}
        self._client.log_batch(
            stored.run_id,
            metrics=[Metric(name, float("nan"), record.end, 0) for name in removed],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )

    def _complete(self, run_id: str, record: Record) -> None:
        params = [Param(name, value) for name, value in record.params.items()]
        points = [Metric(*point) for point in record.points]
        while params or points:
            some, params = params[:MAX_PARAMS], params[MAX_PARAMS:]
            n_points = MAX_ITEMS - len(some)
            self._client.log_batch(run_id, metrics=points[:n_points], params=some)
            points = points[n_points:]
        if record.inputs:
            datasets = [
                Dataset(item.name, item.digest, "split", item.source, item.schema, item.profile)
                for item in record.inputs
            ]
            tags = [[InputTag("mlflow.data.context", item.context)] for item in record.inputs]
            self._client.log_inputs(run_id, datasets=list(map(DatasetInput, datasets, tags)))
        self._write_artifacts(run_id, record.artifacts)
        if record.key.level != "run":
            self._client.log_batch(run_id, tags=[RunTag("record", record.digest())])
        if record.status == "SCHEDULED":
            self._client.update_run(run_id, status=record.status)
        else:
            self._client.set_terminated(run_id, record.status, record.end)

    def _write_artifacts(self, run_id: str, artifacts: Mapping[str, bytes]) -> None:
        if not artifacts:
            return
        if self._artifacts is not None:
            write_artifacts(self._artifacts, self._client.get_run(run_id).info.artifact_uri, artifacts)
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, content in artifacts.items():
                (Path(folder) / name).write_bytes(content)
            self._client.log_artifacts(run_id, folder)


@contextlib.contextmanager
def _translated_errors(key: Key | None = None) -> Iterator[None]:
    """Runs requests with short timeouts and raises their failures as errors of `tracker`."""
    limits = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_S),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    try:
        with temporary_variables(limits):  # which MLflow reads at each request
            yield
    except MlflowException as error:
        if key is not None and error.error_code in REFUSED:
            raise RecordRefused(key, str(error)) from error
        fix = (
            "; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            if error.error_code == "UNAUTHENTICATED"
            else ""
        )
        raise TrackerUnavailable(mask(str(error)) + fix) from error
    except (RequestException, OSError) as error:
        raise TrackerUnavailable(mask(str(error))) from error


def _quoted(value: str) -> str:
    quote = '"' if "'" in value else "'"
    return f"{quote}{value}{quote}"
