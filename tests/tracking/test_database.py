"""A tracker in SQLite: each record once, with its parents; replaced when it changes; the folder can move."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient

from src.config import TrackingConfig
from src.sync import sync
from src.tracking.connect import open_tracker, tracking_uri
from src.tracking.outbox import Outbox
from src.tracking.record import Key
from src.tracking.runs import record_of
from src.tracking.tracker import Tracker, TrackerUnavailable
from tests.tracking.folders import axes_of, cell_report, enqueue, run_folder, sweep_of, sweep_report
from tests.tracking.reading import by_key, content, runs_of


def opened(local: TrackingConfig, multirun: Path) -> tuple[str, Tracker]:
    uri, tracker = tracking_uri(local, multirun), open_tracker(local, multirun)
    assert uri is not None
    assert tracker is not None
    return uri, tracker


def test_a_run_brings_its_cell_and_its_sweep_which_wait_for_their_verdicts(
    local: TrackingConfig, multirun: Path
) -> None:
    uri, tracker = opened(local, multirun)
    sweep_dir = multirun / "digits-mlp"
    assert tracker.write([record_of(run_folder(sweep_dir))]) == 1
    runs = by_key(uri)
    sweep, cell = runs[Key("sweep", "digits-mlp")], runs[Key("cell", "digits-mlp", "c0ffee")]
    leaf = runs[Key("run", "digits-mlp", "c0ffee", "c0ffeesequential0")]
    assert leaf.data.tags["mlflow.parentRunId"] == cell.info.run_id
    assert cell.data.tags["mlflow.parentRunId"] == sweep.info.run_id
    assert (sweep.info.status, cell.info.status, leaf.info.status) == ("SCHEDULED", "SCHEDULED", "FINISHED")

    tracker.write([record_of(cell_report(sweep_dir)), record_of(sweep_report(sweep_dir))])
    after = by_key(uri)
    assert len(after) == 3
    for key in (Key("sweep", "digits-mlp"), Key("cell", "digits-mlp", "c0ffee")):
        assert after[key].info.status == "FINISHED"
        assert after[key].info.run_id == runs[key].info.run_id
        assert after[key].info.start_time == leaf.info.start_time
    assert after[Key("cell", "digits-mlp", "c0ffee")].data.tags["verdict"] == "combined"


def test_written_twice_it_is_there_once(local: TrackingConfig, multirun: Path) -> None:
    uri, tracker = opened(local, multirun)
    sweep_dir = sweep_of(multirun)
    folders = [*(path.parent for path in sweep_dir.glob("cells/*/*/result.json")), sweep_dir]
    records = [record_of(folder) for folder in folders]
    assert tracker.write(records) == len(records)
    before = {key: content(uri, run) for key, run in by_key(uri).items()}
    assert tracker.write([*records, *records]) == 0
    assert {key: content(uri, run) for key, run in by_key(uri).items()} == before


def test_a_failed_run_that_is_retried_becomes_the_finished_one(local: TrackingConfig, multirun: Path) -> None:
    uri, tracker = opened(local, multirun)
    sweep_dir = multirun / "digits-mlp"
    folder = run_folder(sweep_dir, status="failed")
    failed = record_of(folder)
    tracker.write([failed])
    assert by_key(uri)[failed.key].info.status == "FAILED"
    shutil.rmtree(folder)
    tracker.write([failed, record_of(run_folder(sweep_dir))])
    run = by_key(uri)[failed.key]
    assert run.info.status == "FINISHED"
    assert "error" not in run.data.tags
    assert run.data.metrics["test/d1/accuracy"] == 0.9


def test_two_deliverers_at_once_write_every_run_once(local: TrackingConfig, multirun: Path) -> None:
    uri, first = opened(local, multirun)
    second = open_tracker(local, multirun)
    assert second is not None
    sweep_dir = multirun / "digits-mlp"
    records = [record_of(run_folder(sweep_dir, seed=seed)) for seed in range(12)]
    written: list[int] = []
    threads = [
        threading.Thread(target=lambda m=tracker, r=part: written.extend(m.write([record]) for record in r))
        for tracker, part in ((first, records), (second, records[::-1]))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(written) == 12
    assert len(by_key(uri)) == 14


def test_a_run_deleted_in_the_ui_is_restored(local: TrackingConfig, multirun: Path) -> None:
    uri, tracker = opened(local, multirun)
    record = record_of(run_folder(multirun / "digits-mlp"))
    tracker.write([record])
    MlflowClient(uri).delete_run(by_key(uri)[record.key].info.run_id)
    assert record.key not in by_key(uri)
    tracker.write([record])
    assert by_key(uri)[record.key].info.status == "FINISHED"


def test_equal_data_sets_of_two_regimes_are_one_data_set(local: TrackingConfig, multirun: Path) -> None:
    uri, tracker = opened(local, multirun)
    sweep_dir = multirun / "digits-mlp"
    tracker.write([record_of(run_folder(sweep_dir, regime="sequential"))])
    tracker.write([record_of(run_folder(sweep_dir, regime="combined"))])
    with sqlite3.connect(multirun / "mlflow.db") as database:
        assert database.execute("select count(*) from datasets").fetchone() == (2,)
        assert database.execute("select count(*) from inputs").fetchone() == (4,)
    leaves = [run for run in runs_of(uri) if run.data.tags["level"] == "run"]
    assert all(
        {item.dataset.name for item in run.inputs.dataset_inputs} == {"digits-d1", "digits-d2"} for run in leaves
    )


def test_two_sweeps_with_equal_runs_have_a_run_each(local: TrackingConfig, multirun: Path) -> None:
    uri, tracker = opened(local, multirun)
    tracker.write([record_of(run_folder(multirun / name)) for name in ("one", "two")])
    assert {key.sweep for key in by_key(uri)} == {"one", "two"}
    assert len(by_key(uri)) == 6


def test_the_folder_moves_and_its_files_are_found(local: TrackingConfig, multirun: Path, tmp_path: Path) -> None:
    _, tracker = opened(local, multirun)
    tracker.write([record_of(run_folder(multirun / "digits-mlp"))])
    tracker.close()
    moved = tmp_path / "elsewhere" / "multirun"
    shutil.move(multirun, moved)
    assert sync(moved, local).n_written == 0
    uri = tracking_uri(local, moved)
    assert uri is not None
    leaf = next(run for run in runs_of(uri) if run.data.tags["level"] == "run")
    assert str(tmp_path) not in leaf.info.artifact_uri
    file = moved / "mlartifacts" / leaf.info.artifact_uri.removeprefix("mlflow-artifacts:/") / "config.yaml"
    assert "optimizer" in file.read_text()
    assert "s3cret" not in file.read_text()


def test_an_emptied_database_is_rebuilt_with_the_same_ids(local: TrackingConfig, multirun: Path) -> None:
    uri, tracker = opened(local, multirun)
    sweep_dir = sweep_of(multirun)
    report = sync(multirun, local)
    assert report.n_written == report.n_records == 24 + 4 + 1
    before = {key: (run.info.run_id, content(uri, run)) for key, run in by_key(uri).items()}
    tracker.close()
    for file in multirun.glob("mlflow.db*"):
        file.unlink()
    shutil.rmtree(multirun / "mlartifacts")
    again = TrackingConfig(name="local", uri=f"sqlite:///{multirun / 'new.db'}", experiment="lab")
    rebuilt = sync(multirun, again)
    assert (rebuilt.n_written, rebuilt.problems, rebuilt.error) == (29, [], None)
    assert {
        key: (run.info.run_id, content(str(again.uri), run)) for key, run in by_key(str(again.uri)).items()
    } == before
    assert sync(multirun, again, sweep=sweep_dir.name).n_written == 0
    assert len(list((multirun / "mlartifacts").glob("**/config.yaml"))) == 24


def test_a_journal_of_a_deleted_database_does_not_damage_the_next(
    local: TrackingConfig, multirun: Path, tmp_path: Path
) -> None:
    uri, tracker = opened(local, multirun)
    sweep_of(multirun)
    file, journal, kept = (multirun / "mlflow.db", multirun / "mlflow.db-wal", tmp_path / "kept")
    with contextlib.closing(sqlite3.connect(file)) as reader:  # as long as it is there the journal stays
        reader.execute("SELECT count(*) FROM runs").fetchall()
        sync(multirun, local)
        shutil.copy(journal, kept)
    tracker.close()
    file.unlink()  # moved away, and the journal forgotten
    shutil.move(kept, journal)
    assert sync(multirun, local).n_written == 29
    with contextlib.closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert len(by_key(uri)) == 29


def test_the_error_for_a_damaged_database_names_the_fix(local: TrackingConfig, multirun: Path) -> None:
    _, tracker = opened(local, multirun)
    sweep_of(multirun)
    sync(multirun, local)
    tracker.close()
    file = multirun / "mlflow.db"
    content = bytearray(file.read_bytes())
    content[4096 * 3 :] = os.urandom(len(content) - 4096 * 3)
    file.write_bytes(content)
    report = sync(multirun, local)
    assert report.error is not None
    assert "move mlflow.db away" in report.error


def test_a_schema_of_an_older_mlflow_is_upgraded_and_a_copy_is_kept(local: TrackingConfig, tmp_path: Path) -> None:
    import mlflow
    from alembic import command
    from alembic.config import Config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    multirun = tmp_path / "multirun"
    multirun.mkdir()
    engine = create_engine(f"sqlite:///{multirun / 'mlflow.db'}")
    Base.metadata.create_all(engine)
    config = Config()
    config.set_main_option("script_location", str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0584bdc529eb")  # MLflow 2.14
    engine.dispose()
    _, tracker = opened(local, multirun)
    assert tracker.write([record_of(run_folder(multirun / "digits-mlp"))]) == 1
    assert (multirun / "mlflow.db.before-upgrade").exists()


def _prepare_and_die(local: TrackingConfig, multirun: Path, n_statements: int) -> None:
    count = itertools.count(1)

    def die(*_: object) -> None:
        if next(count) == n_statements:
            os.kill(os.getpid(), signal.SIGKILL)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", die)
    open_tracker(local, multirun)


def test_a_process_killed_while_creating_the_tables_does_not_block_the_next(
    local: TrackingConfig, tmp_path: Path
) -> None:
    child = multiprocessing.get_context("fork").Process(target=_prepare_and_die, args=(local, tmp_path, 400))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "mlflow.db").exists(), "nobody sees half a database"
    uri, tracker = opened(local, tmp_path)
    assert tracker.write([record_of(run_folder(tmp_path / "digits-mlp"))]) == 1
    assert len(by_key(uri)) == 3


def test_a_schema_of_a_newer_mlflow_is_not_changed(local: TrackingConfig, multirun: Path) -> None:
    with contextlib.closing(sqlite3.connect(multirun / "mlflow.db")) as database:
        database.execute("update alembic_version set version_num = 'ffffffffffff'")
        database.commit()
    with pytest.raises(TrackerUnavailable, match="newer MLflow"):
        open_tracker(local, multirun)


def test_an_invalid_database_is_unavailable_not_a_crash(local: TrackingConfig, tmp_path: Path) -> None:
    multirun = tmp_path / "multirun"
    multirun.mkdir()
    (multirun / "mlflow.db").write_text("not a database " * 100)
    with pytest.raises(TrackerUnavailable, match="not a database"):
        open_tracker(local, multirun)


def test_the_saved_views_are_the_experiments_and_a_changed_one_stays(local: TrackingConfig, multirun: Path) -> None:
    uri, _ = opened(local, multirun)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("lab")
    assert experiment is not None
    view = json.loads(experiment.tags["mlflow.sharedViewState.grid"])
    state = json.loads(view["state"])
    assert view["name"] == "sweep > cell > run"
    assert {"metrics.`ratio`", "params.`regime`", "tags.`verdict`"} <= set(state["selectedColumns"])
    client.set_experiment_tag(experiment.experiment_id, "mlflow.sharedViewState.grid", "mine")
    opened(local, multirun)
    assert client.get_experiment(experiment.experiment_id).tags["mlflow.sharedViewState.grid"] == "mine"


def test_axes_sort_as_numbers(local: TrackingConfig, multirun: Path) -> None:
    uri, tracker = opened(local, multirun)
    sweep_dir = multirun / "digits-mlp"
    for index, ratio in enumerate((10.0, 0.1, 3.0)):
        tracker.write([record_of(run_folder(sweep_dir, cell=f"c{index}", axes=axes_of(ratio)))])
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("lab")
    assert experiment is not None
    ordered = client.search_runs([experiment.experiment_id], "tags.level = 'run'", order_by=["metrics.ratio ASC"])
    assert [run.data.params["ratio"] for run in ordered] == ["0.1", "3", "10"]


def test_an_outbox_delivered_into_an_open_ui_reader_is_not_blocked(local: TrackingConfig, multirun: Path) -> None:
    _, tracker = opened(local, multirun)
    outbox = Outbox(multirun / "digits-mlp")
    enqueue(outbox, run_folder(multirun / "digits-mlp"))
    reader = sqlite3.connect(multirun / "mlflow.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("select count(*) from runs").fetchone()
    assert outbox.deliver(tracker).n_delivered == 1
    reader.close()
