"""The bulk writer and MLflow's client write the same runs; an unknown MLflow switches the bulk writer off."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from src.config import TrackingConfig
from src.sync import sync
from src.tracking import bulk
from src.tracking.bulk import BulkTracker
from src.tracking.client import ClientTracker
from src.tracking.connect import open_tracker, tracking_uri
from src.tracking.record import Key
from src.tracking.schema import prepare
from tests.tracking.folders import run_folder, sweep_of
from tests.tracking.reading import by_key, content


def test_both_writers_write_the_same_runs(
    local: TrackingConfig, multirun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_dir = sweep_of(multirun, ratios=(0.1,), n_seeds=1)
    run_folder(sweep_dir, cell="bad", regime="replay(share=0.05)", status="diverged")
    run_folder(sweep_dir, cell="bad", status="failed")
    run_folder(sweep_dir, cell="long", n_points=600)  # more than one batch of points
    other = Path(shutil.copytree(multirun, tmp_path / "other"))
    assert sync(multirun, local).problems == []
    monkeypatch.setattr(bulk, "KNOWN_REVISIONS", {})
    assert sync(other, local).problems == []
    uris = [str(tracking_uri(local, folder)) for folder in (multirun, other)]
    by_bulk, by_client = ({key: content(uri, run) for key, run in by_key(uri).items()} for uri in uris)
    assert len(by_bulk) == 7 + 2 + 2 + 1
    assert by_client == by_bulk
    tags = [MlflowClient(uri).get_experiment_by_name("lab").tags for uri in uris]
    assert tags[0] == tags[1]
    assert "delta/sequential-combined/union/accuracy" in tags[0]["mlflow.sharedViewState.cells"]
    assert "curves: r=0.10 imb=1 e=20" in tags[0]["mlflow.sharedViewState.curves"]
    files = [sorted(path.name for path in (folder / "mlartifacts").rglob("*.*")) for folder in (multirun, other)]
    assert files[0] == files[1] != []

    runs = by_key(uris[1])
    for key, run in runs.items():
        if key.level == "run":
            assert run.data.tags["mlflow.parentRunId"] == runs[Key("cell", key.sweep, key.cell)].info.run_id
    assert sync(other, local).n_written == 0, "the client recognises its runs"
    monkeypatch.undo()
    assert sync(other, local).n_written == 0, "and so does the bulk writer"


def test_an_unknown_column_switches_to_the_client_and_is_reported_once(
    local: TrackingConfig, multirun: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = open_tracker(local, multirun)
    assert isinstance(tracker, BulkTracker)
    tracker.close()
    with closing(sqlite3.connect(multirun / "mlflow.db")) as database:
        database.execute("ALTER TABLE params ADD COLUMN origin VARCHAR(10)")
        database.commit()
    sweep_of(multirun, ratios=(0.1,), n_seeds=1)
    with caplog.at_level(logging.WARNING):
        report = sync(multirun, local)
    assert (report.n_written, report.problems, report.error) == (7, [], None)
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "src.tracking.connect"]
    assert "table params" in warning
    assert "origin" in warning
    assert "\n" not in warning


def test_an_unknown_version_switches_to_the_client(
    local: TrackingConfig, multirun: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "99.0")
    with caplog.at_level(logging.WARNING):
        tracker = open_tracker(local, multirun)
    assert isinstance(tracker, ClientTracker)
    assert "MLflow 99.0 is installed" in caplog.text


def test_an_experiment_that_lacks_nothing_is_found_without_mlflow(local: TrackingConfig, multirun: Path) -> None:
    """The schema listed for the installed MLflow is its newest, and every lack leads to MLflow, which mends it."""
    uri, lock = str(tracking_uri(local, multirun)), multirun / "mlflow.lock"
    expected = prepare(uri, "lab", lock)
    assert bulk.open_experiment(uri, "lab") == expected
    assert bulk.open_experiment(f"sqlite:///{multirun}/none.db", "lab") is None
    assert not (multirun / "none.db").exists(), "looking for a database creates none"
    for lack, mended in (
        ("UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 'lab'", True),
        ("DELETE FROM experiment_tags", True),
        ("UPDATE alembic_version SET version_num = 'of a newer MLflow'", False),
        ("DROP TABLE experiment_tags", False),
    ):
        with closing(sqlite3.connect(multirun / "mlflow.db")) as database:
            database.execute(lack)
            database.commit()
        assert bulk.open_experiment(uri, "lab") is None, lack
        if mended:
            assert prepare(uri, "lab", lock) == bulk.open_experiment(uri, "lab") == expected


def test_an_experiment_is_created_as_mlflow_creates_it(local: TrackingConfig, multirun: Path) -> None:
    """Each sweep has one of its own, so that every first command would load MLflow."""
    uri = str(tracking_uri(local, multirun))
    for name, create in (("of bulk", bulk.open_experiment), ("of client", lambda *_: None)):
        experiment = create(uri, name) or prepare(uri, name, multirun / "mlflow.lock")
        assert experiment.artifact_location == f"mlflow-artifacts:/{name.replace(' ', '_')}"
    ours, theirs = (MlflowClient(uri).get_experiment_by_name(name) for name in ("of bulk", "of client"))
    assert ours is not None
    assert theirs is not None
    assert (ours.tags, ours.lifecycle_stage) == (theirs.tags, theirs.lifecycle_stage)
    with closing(sqlite3.connect(multirun / "mlflow.db")) as database:
        rows = database.execute("SELECT * FROM experiments WHERE name LIKE 'of %' ORDER BY experiment_id").fetchall()
    different = {"experiment_id", "name", "artifact_location", "creation_time", "last_update_time"}
    kept = [index for index, name in enumerate(bulk.COLUMNS["experiments"].split()) if name not in different]
    assert [rows[0][index] for index in kept] == [rows[1][index] for index in kept]


def test_an_artifact_location_outside_of_the_folder_names_the_fix(local: TrackingConfig, multirun: Path) -> None:
    from mlflow import MlflowClient

    MlflowClient(str(tracking_uri(local, multirun))).create_experiment("elsewhere", artifact_location="/elsewhere")
    run_folder(multirun / "digits-mlp")
    tracking = TrackingConfig(name="local", uri=None, experiment="elsewhere")
    assert "tracking.experiment=NAME" in str(sync(multirun, tracking).error)
