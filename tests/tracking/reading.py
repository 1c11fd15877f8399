"""The runs of a sweep as MLflow's client reads them."""

from __future__ import annotations

from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from src.tracking.record import Key


def runs_of(uri: str, *, experiment: str = "lab") -> list[Run]:
    """Every run that is not deleted, in the order of their start."""
    client = MlflowClient(uri)
    known = client.get_experiment_by_name(experiment)
    if known is None:
        return []
    return list(client.search_runs([known.experiment_id], max_results=5000, order_by=["attributes.start_time"]))


def key_of(run: Run) -> Key:
    tags = run.data.tags
    return Key(tags["level"], tags["sweep"], tags.get("cell", ""), tags.get("run", ""))


def by_key(uri: str, experiment: str = "lab") -> dict[Key, Run]:
    """Every run by its key, of which no two may be the same."""
    runs = runs_of(uri, experiment=experiment)
    found = {key_of(run): run for run in runs}
    assert len(found) == len(runs)
    return found


def content(uri: str, run: Run) -> dict[str, Any]:
    """All of a run but its ids: what two writers must agree on."""
    client = MlflowClient(uri)
    tags = {name: value for name, value in run.data.tags.items() if name not in ("mlflow.parentRunId", "mlflow.user")}
    history = {
        name: sorted(
            (point.step, point.timestamp, repr(point.value))
            for point in client.get_metric_history(run.info.run_id, name)
        )
        for name in run.data.metrics
    }
    inputs = sorted(
        (str(dict(item.dataset)), str([dict(tag) for tag in item.tags])) for item in run.inputs.dataset_inputs
    )
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "times": (run.info.start_time, run.info.end_time),
        "stage": run.info.lifecycle_stage,
        "tags": tags,
        "params": run.data.params,
        "latest": {name: repr(value) for name, value in run.data.metrics.items()},
        "history": history,
        "inputs": inputs,
    }
