"""A real tracking server holds the same runs as the database, and runs left incomplete by a kill are completed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from benchmarks.reliability.lossy import lossy
from src.config import TrackingConfig
from src.sync import sync
from src.tracking.connect import open_tracker, tracking_uri
from src.tracking.outbox import Deliverer, Outbox
from src.tracking.record import Key
from src.tracking.runs import record_of
from src.tracking.tracker import Tracker, TrackerUnavailable
from tests.tracking.conftest import Server
from tests.tracking.folders import cell_report, enqueue, run_folder, sweep_of, sweep_report
from tests.tracking.reading import by_key, content, key_of, runs_of

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def shared_server(empty_multirun: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(Path(shutil.copytree(empty_multirun, tmp_path_factory.mktemp("server") / "multirun")))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(shared_server: Server) -> Server:
    """The one server of this module, with nothing in its experiment."""
    for run in runs_of(shared_server.uri):
        MlflowClient(shared_server.uri).delete_run(run.info.run_id)
    return shared_server


def opened(tracking: TrackingConfig, multirun: Path) -> Tracker:
    tracker = open_tracker(tracking, multirun)
    assert tracker is not None
    return tracker


def test_server_and_database_hold_the_same_runs_field_by_field(
    server: Server, local: TrackingConfig, multirun: Path
) -> None:
    sweep_dir = sweep_of(multirun, ratios=(0.1,), n_seeds=1)
    run_folder(sweep_dir, cell="bad", regime="replay(share=0.05)", status="diverged")
    run_folder(sweep_dir, cell="bad", status="failed")
    run_folder(sweep_dir, cell="long", n_points=600)  # more than one batch of points
    for tracking in (local, server.tracking):
        assert sync(multirun, tracking).problems == []
    uri = tracking_uri(local, multirun)
    assert uri is not None
    of_database = {key: content(uri, run) for key, run in by_key(uri).items()}
    of_server = {key: content(server.uri, run) for key, run in by_key(server.uri).items()}
    assert len(of_database) == 7 + 2 + 2 + 1
    for key, expected in of_database.items():
        assert of_server[key] == expected, key
    assert of_server.keys() == of_database.keys()
    links = {key: by_key(server.uri)[key].data.tags.get("mlflow.parentRunId") for key in of_server}
    ids = {key: run.info.run_id for key, run in by_key(server.uri).items()}
    assert all(links[key] == ids[Key("cell", key.sweep, key.cell)] for key in ids if key.level == "run")
    assert sync(multirun, server.tracking).n_written == 0


def test_lost_answers_leave_every_run_once(server: Server, multirun: Path) -> None:
    """The server does what it was asked and nobody is told: a run is neither made twice nor deleted nor incomplete."""
    sweep_of(multirun, ratios=(0.1,), n_seeds=1)
    with lossy(server.uri, share=0.25, seed=1) as proxy:
        reports = [sync(multirun, TrackingConfig(name="server", uri=proxy.uri, experiment="lab"))]
        while reports[-1].error is not None and len(reports) < 5:
            reports.append(sync(multirun, TrackingConfig(name="server", uri=proxy.uri, experiment="lab")))
    assert proxy.n_lost >= 10
    assert reports[-1].error is None
    keys = [key_of(run) for run in runs_of(server.uri)]
    assert len(keys) == len(set(keys)) == reports[-1].n_records
    assert "RUNNING" not in {run.info.status for run in runs_of(server.uri)}
    assert sync(multirun, server.tracking).n_written == 0


def test_files_reach_the_server_masked(server: Server, multirun: Path, tmp_path: Path) -> None:
    tracker = opened(server.tracking, multirun)
    record = record_of(run_folder(multirun / "digits-mlp"))
    tracker.write([record])
    run_id = by_key(server.uri)[record.key].info.run_id
    text = Path(MlflowClient(server.uri).download_artifacts(run_id, "config.yaml", str(tmp_path))).read_text()
    assert "optimizer" in text
    assert "s3cret" not in text


@pytest.mark.parametrize("calls_before_the_kill", ["create_run", "log_batch", "log_inputs"])
def test_an_incomplete_run_is_completed_not_duplicated(
    server: Server, multirun: Path, monkeypatch: pytest.MonkeyPatch, calls_before_the_kill: str
) -> None:
    record = record_of(run_folder(multirun / "digits-mlp"))
    real = getattr(MlflowClient, calls_before_the_kill)

    def killed(self: MlflowClient, *arguments: object, **named: object) -> object:
        answer = real(self, *arguments, **named)
        if calls_before_the_kill != "create_run" or "run" in named["tags"]:  # type: ignore[operator]
            raise KeyboardInterrupt
        return answer

    tracker = opened(server.tracking, multirun)
    tracker.write([record.parent] if record.parent else [])
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, calls_before_the_kill, killed)
        with pytest.raises(KeyboardInterrupt):
            tracker.write([record])
    half = by_key(server.uri)[record.key]
    assert half.info.status == "RUNNING"
    assert opened(server.tracking, multirun).write([record]) == 1
    whole = by_key(server.uri)[record.key]
    assert (whole.info.run_id, whole.info.status) == (half.info.run_id, "FINISHED")
    assert len(MlflowClient(server.uri).get_metric_history(whole.info.run_id, "train/loss")) == 20
    assert opened(server.tracking, multirun).write([record]) == 0


def test_a_run_created_twice_by_a_lost_answer_is_there_once(server: Server, multirun: Path) -> None:
    tracker = opened(server.tracking, multirun)
    record = record_of(run_folder(multirun / "digits-mlp"))
    tracker.write([record])
    client = MlflowClient(server.uri)
    first = by_key(server.uri)[record.key]
    client.create_run(first.info.experiment_id, start_time=record.start, tags=record.all_tags(None))
    tracker.write([record])
    assert by_key(server.uri)[record.key].info.status == "FINISHED"
    everything = client.search_runs([first.info.experiment_id], run_view_type=3)
    assert not [run for run in everything if run.info.status == "RUNNING"]


def test_a_retried_run_and_a_cell_with_a_new_verdict(server: Server, multirun: Path) -> None:
    tracker = opened(server.tracking, multirun)
    sweep_dir = multirun / "digits-mlp"
    folder = run_folder(sweep_dir, status="failed")
    failed = record_of(folder)
    tracker.write([failed, record_of(cell_report(sweep_dir)), record_of(sweep_report(sweep_dir))])
    before = by_key(server.uri)
    shutil.rmtree(folder)
    tracker.write([record_of(run_folder(sweep_dir)), record_of(cell_report(sweep_dir, n=4))])
    after = by_key(server.uri)
    assert after[failed.key].info.status == "FINISHED"
    assert "error" not in after[failed.key].data.tags
    cell = Key("cell", "digits-mlp", "c0ffee")
    assert after[cell].info.run_id == before[cell].info.run_id
    assert "n = 4" in after[cell].data.tags["mlflow.note.content"]
    assert after[failed.key].data.tags["mlflow.parentRunId"] == after[cell].info.run_id


def test_a_restarted_server_receives_all_runs_in_order(server: Server, multirun: Path) -> None:
    sweep_dir = multirun / "digits-mlp"
    outbox = Outbox(sweep_dir)
    with Deliverer(sweep_dir, server.tracking, interval_s=0.05) as deliverer:
        enqueue(outbox, run_folder(sweep_dir, seed=0, minute=0))
    assert (deliverer.error, outbox.entries()) == (None, [])

    server.stop()
    warnings: list[str] = []
    with Deliverer(sweep_dir, server.tracking, interval_s=0.05, warn=warnings.append) as deliverer:
        for seed in (2, 1):
            enqueue(outbox, run_folder(sweep_dir, seed=seed, minute=seed))
    assert len(outbox.entries()) == 2
    assert len(warnings) == 1

    server.start()
    with Deliverer(sweep_dir, server.tracking, interval_s=0.05) as deliverer:
        enqueue(outbox, run_folder(sweep_dir, seed=3, minute=3))
    assert (deliverer.error, outbox.entries()) == (None, [])
    leaves = [run for run in runs_of(server.uri) if key_of(run).level == "run"]
    assert sorted(run.data.params["seed"] for run in leaves) == ["0", "1", "2", "3"]
    assert {run.info.status for run in leaves} == {"FINISHED"}


def test_a_request_without_a_reply_ends_the_delivery(multirun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr("src.tracking.client.TIMEOUT_S", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracking = TrackingConfig(name="server", uri=f"http://127.0.0.1:{silent.getsockname()[1]}", experiment="lab")
        with pytest.raises(TrackerUnavailable, match=r"[Tt]ime"):
            open_tracker(tracking, multirun)
