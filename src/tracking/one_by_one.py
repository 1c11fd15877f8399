"""A mirror that says every value of a metric in a write of its own, as most loggers do: what batches save is the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from src.tracking.mirror import Mirror, TrackerUnavailable
from src.tracking.record import Record, mask


class OneByOneMirror:
    """Writes runs through `mirror` without their points, then point after point; `tracking.batched=false`.

    The tag `record` names the whole content only when all of it is there, so a kill in between is seen and mended.
    """

    def __init__(self, mirror: Mirror, uri: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self._mirror = mirror
        client: Any = MlflowClient(uri)
        self._client = client
        self._experiment: str = client.get_experiment_by_name(experiment).experiment_id

    def close(self) -> None:
        self._mirror.close()

    def write(self, records: Sequence[Record]) -> int:
        """See `Mirror.write`."""
        return sum(self._write(record) for record in records)

    def _write(self, record: Record) -> int:
        from mlflow.exceptions import MlflowException

        try:
            if self._runs(record):
                return 0
            bare = replace(record, points=())
            self._mirror.write([bare])
            run_id = self._runs(bare)[0].info.run_id
            for point in record.points:
                self._client.log_metric(run_id, point.name, point.value, timestamp=point.timestamp, step=point.step)
            self._client.set_tag(run_id, "record", record.digest())
            return 1
        except MlflowException as error:
            raise TrackerUnavailable(mask(str(error))) from error

    def _runs(self, record: Record) -> Any:
        """The runs that say exactly this record."""
        query = f"tags.record = '{record.digest()}' AND tags.sweep = '{record.key.sweep}'"
        return self._client.search_runs([self._experiment], query, max_results=1)
