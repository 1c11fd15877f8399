"""The mirror behind an MLflow tracking server: through MLflow's client, with short timeouts and no retries of its own.

A run takes a handful of requests, so a kill can leave one half-made, RUNNING. Its tags say which record it was meant to
be: the next delivery finds it and sends the same again, which MLflow takes without doubling anything.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from src.tracking.mirror import Found, RecordRefused, TrackerUnavailable
from src.tracking.record import Key, Point, Record, mask
from src.tracking.views import saved_views

TIMEOUT_S = 10
"""For one request. A tracker slower than this is treated as down; nothing is lost by it."""

MAX_POINTS = 1000
MAX_PARAMS = 100
REFUSED = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})


@contextlib.contextmanager
def _short_timeouts() -> Iterator[None]:
    """MLflow reads these variables at each request; what the user had set comes back afterwards."""
    ours = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_S),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class ServerMirror:
    """Writes records one by one. Not for use by two threads at once.

    What it finds and writes is remembered for one batch: meanwhile the outbox's lock makes it the only writer.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self._client: Any = MlflowClient(uri)
        self._found: dict[Key, Found] = {}
        self._searched: set[tuple[str, str]] = set()
        with self._answers():
            self._experiment = self._experiment_id(experiment)

    def close(self) -> None:
        """Nothing to give back: requests keep no state here."""

    def write(self, records: Sequence[Record]) -> int:
        """See `Mirror.write`: run by run, what is confirmed staying when a later one fails."""
        self._found, self._searched = {}, set()
        n_written = 0
        for record in records:
            with self._answers(record.key):
                n_written += self._write(record)
        return n_written

    @contextlib.contextmanager
    def _answers(self, key: Key | None = None) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        try:
            with _short_timeouts():
                yield
        except MlflowException as error:
            if key is not None and error.error_code in REFUSED:
                raise RecordRefused(key, str(error)) from error
            raise TrackerUnavailable(mask(str(error))) from error
        except (RequestException, OSError) as error:
            raise TrackerUnavailable(mask(str(error))) from error

    def _experiment_id(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        known = self._client.get_experiment_by_name(name)
        if known is None:
            try:
                self._client.create_experiment(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another sweep was faster
                    raise
            known = self._client.get_experiment_by_name(name)
        if known.lifecycle_stage == "deleted":
            self._client.restore_experiment(known.experiment_id)
        for tag, value in saved_views().items():
            if tag not in known.tags:  # a view that the user has changed stays as it is
                self._client.set_experiment_tag(known.experiment_id, tag, value)
        return str(known.experiment_id)

    # -------------------------------------------------------------------------------------------- looking up

    def _find(self, key: Key) -> Found | None:
        """The run of a key. One search fetches all runs of a cell, or the sweep's own."""
        scope = (key.sweep, key.cell)
        if scope not in self._searched:
            query = f"tags.sweep = {_quoted(key.sweep)}"
            query += f" AND tags.cell = {_quoted(key.cell)}" if key.cell else " AND tags.level = 'sweep'"
            token = None
            while True:
                page = self._client.search_runs(
                    [self._experiment], query, max_results=1000, page_token=token, order_by=["attributes.start_time"]
                )
                for run in page:
                    self._remember(run)
                token = page.token
                if not token:
                    break
            self._searched.add(scope)
        return self._found.get(key)

    def _remember(self, run: Any) -> None:
        tags = run.data.tags
        key = Key(tags.get("level", ""), tags["sweep"], tags.get("cell", ""), tags.get("run", ""))
        found = Found(run.info.run_id, tags.get("record", ""), run.info.status, run.info.start_time)
        first = self._found.get(key)
        if first is None:
            self._found[key] = found
            return
        # A request that timed out here may have been carried out there: one of the two stays, a finished one if any.
        kept, extra = (found, first) if first.status == "RUNNING" and found.status != "RUNNING" else (first, found)
        self._found[key] = kept
        self._discard(extra)

    def _discard(self, found: Found) -> None:
        if found.status == "RUNNING":
            self._client.set_terminated(found.run_id, "KILLED")
        self._client.delete_run(found.run_id)

    # -------------------------------------------------------------------------------------------- writing

    def _write(self, record: Record) -> int:
        parent = self._parent_id(record)
        found = self._find(record.key)
        if found is not None and found.says(record):
            return 0
        if found is not None and record.key.level == "run" and found.digest != record.digest():
            self._discard(found)  # a failed run that was taken up again, or a result of other content
            found = None
        if found is None:
            found = self._create(record, parent)
        elif record.key.level != "run":
            self._update_parent(found, record, parent)
        self._complete(found.run_id, record)
        self._found[record.key] = Found(found.run_id, record.digest(), record.status, found.start)
        return 1

    def _parent_id(self, record: Record) -> str | None:
        if record.parent is None:
            return None
        found = self._find(record.parent.key)
        if found is None or found.status == "RUNNING":
            self._write(record.parent)
            found = self._found[record.parent.key]
        return found.run_id

    def _create(self, record: Record, parent: str | None) -> Found:
        run = self._client.create_run(
            self._experiment, start_time=record.start, tags=record.all_tags(parent), run_name=record.name
        )
        return Found(run.info.run_id, record.digest(), "RUNNING", record.start)

    def _update_parent(self, found: Found, record: Record, parent: str | None) -> None:
        """A cell or a sweep says something new; its children hang on its id, so it is changed in place."""
        from mlflow.entities import Metric, RunTag

        tags = record.all_tags(parent) | {"record": ""}  # it is not that record before all of it is there
        known = self._client.get_run(found.run_id).data.metrics
        gone = [name for name in known if name not in {point.name for point in record.points}]
        self._client.log_batch(
            found.run_id,
            metrics=[Metric(name, float("nan"), record.end, 0) for name in gone],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )

    def _complete(self, run_id: str, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        params = [Param(name, value) for name, value in record.params.items()]
        points: Sequence[Point] = record.points
        first = min(MAX_POINTS - min(len(params), MAX_PARAMS), len(points))
        batches = [points[:first], *(points[at : at + MAX_POINTS] for at in range(first, len(points), MAX_POINTS))]
        for number, batch in enumerate(batches):
            self._client.log_batch(
                run_id, metrics=[Metric(*point) for point in batch], params=params[:MAX_PARAMS] if number == 0 else []
            )
        for at in range(MAX_PARAMS, len(params), MAX_PARAMS):
            self._client.log_batch(run_id, params=params[at : at + MAX_PARAMS])
        if record.inputs:
            self._client.log_inputs(
                run_id,
                datasets=[
                    DatasetInput(
                        Dataset(item.name, item.digest, "split", item.source, item.schema, item.profile),
                        [InputTag("mlflow.data.context", item.context)],
                    )
                    for item in record.inputs
                ],
            )
        with tempfile.TemporaryDirectory() as folder:
            for name, content in record.artifacts.items():
                (Path(folder) / name).write_bytes(content)
            if record.artifacts:
                self._client.log_artifacts(run_id, folder)
        if record.key.level != "run":
            self._client.log_batch(run_id, tags=[RunTag("record", record.digest())])
        if record.status == "SCHEDULED":
            self._client.update_run(run_id, status=record.status)
        else:
            self._client.set_terminated(run_id, record.status, record.end)


def _quoted(value: str) -> str:
    quote = '"' if "'" in value else "'"
    return f"{quote}{value}{quote}"
