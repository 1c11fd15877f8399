"""Audit of a finished sweep: lists every deviation from an uninterrupted one; an empty list means none."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.reliability.sweeps import Sweep, same_results
from src.config import TrackingConfig, compose
from src.sync import sync
from src.tracking.connect import keep_mlflow_quiet, tracking_uri
from src.tracking.credentials import use_for


def audit(
    sweep: Sweep,
    reference: Mapping[str, Any],
    tracking: TrackingConfig | None = None,
    *,
    with_stages: bool = True,
) -> list[str]:
    """Problems of a finished sweep, given the `results` of an uninterrupted one.

    `tracking`: where its MLflow is; default: next to the results. `with_stages`: see `damaged_files`.
    """
    problems = damaged_files(sweep.multirun, with_stages=with_stages)
    if not problems:
        problems += same_results(sweep.results(), reference)
    problems += mlflow_problems(sweep.multirun, tracking)
    left = sorted(path.name for path in (sweep.folder / "processes").glob("[!.]*.json"))
    left += [path.name for path in (sweep.folder / "outbox").rglob("*.json")]
    problems += [f"left behind: {name}" for name in left]
    if sweep.workers():
        problems.append(f"workers still run: {sweep.workers()}")
    return problems


def damaged_files(multirun: Path, *, with_stages: bool = True) -> list[str]:
    """Damaged files under final names; partial files of killed processes have temporary names, which no reader opens.

    `with_stages`: also in the stage store, whose damaged files are trained again when they are needed.
    """
    from pyarrow import ArrowException, parquet
    from safetensors import SafetensorError, safe_open

    problems = []
    for path in sorted(multirun.rglob("[!.]*")):
        if not with_stages and path.is_relative_to(multirun / ".stages"):
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".parquet":
                parquet.read_table(path)
            elif path.suffix == ".safetensors":
                with safe_open(path, "np") as file:
                    assert file.keys()
        except (ValueError, OSError, ArrowException, SafetensorError) as error:
            problems.append(f"{path}: {error}")
    return problems


def mlflow_problems(multirun: Path, tracking: TrackingConfig | None = None) -> list[str]:
    """Check that MLflow has every run, cell and sweep on disk exactly once and finished, and nothing else."""
    tracking = tracking or compose([]).tracking
    keep_mlflow_quiet()
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    uri = tracking_uri(tracking, multirun)
    use_for(uri or "")
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = list(client.search_runs(experiments, run_view_type=ViewType.ALL, max_results=50_000))
    active = [run for run in runs if run.info.lifecycle_stage == "active"]
    problems = [
        f"MLflow: {run.info.run_name} is {run.info.status}"
        for run in runs
        if run.info.status != "FINISHED" and (run in active or run.info.status == "RUNNING")
    ]
    found = Counter(
        (tags["level"], tags["sweep"], tags.get("cell", ""), tags.get("run", ""))
        for tags in (run.data.tags for run in active)
    )
    problems += [f"MLflow: {key} exists {count} times" for key, count in found.items() if count > 1]
    wanted = _on_disk(multirun)
    problems += [f"MLflow: {key} is missing" for key in sorted(wanted - found.keys())]
    problems += [f"MLflow: {key} is not on disk" for key in sorted(found.keys() - wanted)]
    report = sync(multirun, tracking)
    if report.n_written or report.n_delivered or report.problems or report.error:
        problems.append(f"make sync still had something to do: {report}")
    return problems


def _on_disk(multirun: Path) -> set[tuple[str, ...]]:
    """The entries that MLflow should have."""
    keys: set[tuple[str, ...]] = set()
    for path in multirun.glob("*/cells/*/*/result.json"):
        body = json.loads(path.read_text())
        keys.add(("run", body["sweep"], body["cell"], body["run"]))
    keys |= {("cell", path.parents[2].name, path.parent.name, "") for path in multirun.glob("*/cells/*/cell.json")}
    return keys | {("sweep", path.parent.name, "", "") for path in multirun.glob("*/summary.json")}


def delivered_order(database: Path) -> list[str]:
    """The hashes of the runs in MLflow's SQLite file, in the order in which they were created there."""
    query = (
        "SELECT t.value FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'run' "
        "WHERE r.lifecycle_stage = 'active' ORDER BY r.rowid"
    )
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return [value for (value,) in connection.execute(query)]
