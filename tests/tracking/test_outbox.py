"""The outbox loses nothing, keeps the order, delivers once, and never delays training because of the tracker."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from src.config import TrackingConfig
from src.tracking.connect import open_tracker, tracking_uri
from src.tracking.outbox import BATCH, Deliverer, Delivery, Outbox
from src.tracking.record import Key, Record
from src.tracking.tracker import RecordRefused, TrackerUnavailable
from tests.tracking.folders import cell_report, enqueue, run_folder, sweep_of
from tests.tracking.reading import by_key


class RecordingTracker:
    """Records the order of what is written; stops answering after `fails_at` records."""

    def __init__(self, *, fails_at: int | None = None, refuses: str | None = None) -> None:
        self.written: list[Key] = []
        self.fails_at = fails_at
        self.refuses = refuses

    def write(self, records: Sequence[Record]) -> int:
        for record in records:
            if len(self.written) == self.fails_at:
                raise TrackerUnavailable("no answer from http://ann:s3cret@host")
            if record.key.run == self.refuses:
                raise RecordRefused(record.key, "too long")
            if record.key not in self.written:
                self.written.append(record.key)
        return len(records)

    def close(self) -> None:
        pass


def test_entries_are_delivered_in_the_order_they_were_put(tmp_path: Path) -> None:
    outbox, tracker = Outbox(tmp_path / "sweep"), RecordingTracker()
    seeds = [5, 1, 4, 2, 3, *range(6, BATCH + 10)]
    for seed in seeds:
        enqueue(outbox, run_folder(tmp_path / "sweep", seed=seed))
    assert outbox.deliver(tracker).n_delivered == len(seeds)
    assert [key.run for key in tracker.written] == [f"c0ffeesequential{seed}" for seed in seeds]
    assert outbox.entries() == []


def test_a_clock_set_back_does_not_change_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, times = Outbox(tmp_path / "sweep"), iter([100, 50, 60])
    monkeypatch.setattr("src.tracking.outbox.time.time_ns", lambda: next(times))
    put = [enqueue(outbox, run_folder(tmp_path / "sweep", seed=seed)) for seed in range(3)]
    assert outbox.entries() == put


def test_a_tracker_that_stops_answering_leaves_undelivered_entries(tmp_path: Path) -> None:
    outbox, tracker = Outbox(tmp_path / "sweep"), RecordingTracker(fails_at=2)
    for seed in range(4):
        enqueue(outbox, run_folder(tmp_path / "sweep", seed=seed))
    delivery = outbox.deliver(tracker)
    assert delivery.error is not None
    assert len(outbox.entries()) == 4
    tracker.fails_at = None
    assert outbox.deliver(tracker).n_delivered == 4
    assert [key.run[-1] for key in tracker.written] == list("0123")


def test_only_one_deliverer_is_active(tmp_path: Path) -> None:
    outbox, tracker = Outbox(tmp_path / "sweep"), RecordingTracker()
    enqueue(outbox, run_folder(tmp_path / "sweep"))
    with FileLock(outbox.folder / ".lock"):
        delivery = outbox.deliver(tracker)
    assert (delivery, len(outbox.entries()), tracker.written) == (Delivery(), 1, [])


def test_an_undeliverable_entry_is_refused_and_the_rest_is_delivered(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "sweep")
    tracker = RecordingTracker(refuses="c0ffeesequential2")
    for seed in range(4):
        enqueue(outbox, run_folder(tmp_path / "sweep", seed=seed))
    (tmp_path / "sweep" / "cells" / "c0ffee" / "sequential-1" / "result.json").write_text("{half")
    delivery = outbox.deliver(tracker)
    assert [key.run[-1] for key in tracker.written] == ["0", "3"]
    assert len(delivery.refused) == 2
    reasons = [json.loads(path.read_text())["reason"] for path in sorted((outbox.folder / "refused").iterdir())]
    assert "JSONDecodeError" in reasons[0]
    assert "too long" in reasons[1]


def test_a_partial_entry_of_a_killed_process_is_never_read(tmp_path: Path) -> None:
    outbox, tracker = Outbox(tmp_path / "sweep"), RecordingTracker()
    entry = enqueue(outbox, run_folder(tmp_path / "sweep"))
    (outbox.folder / f".{entry.name}.abc").write_text('{"schema"')
    assert outbox.deliver(tracker).refused == ()
    assert len(tracker.written) == 1


def _write_and_die(sweep_dir: Path, when: str) -> None:
    outbox, folder = Outbox(sweep_dir), sweep_dir / "cells" / "c0ffee" / "sequential-0"
    with outbox.transaction(folder):
        if when == "with the result":
            run_folder(sweep_dir)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("when", ["with the result", "before the result"])
def test_results_of_a_killed_process_are_delivered(tmp_path: Path, when: str) -> None:
    sweep_dir, tracker = tmp_path / "sweep", RecordingTracker()
    process = multiprocessing.get_context("fork").Process(target=_write_and_die, args=(sweep_dir, when))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    outbox = Outbox(sweep_dir)
    assert (len(outbox.pending()), outbox.entries()) == (1, [])
    delivery = outbox.deliver(tracker)
    assert len(tracker.written) == delivery.n_delivered == (when == "with the result")
    assert (delivery.refused, outbox.pending(), outbox.entries()) == ((), [], [])
    assert list((outbox.folder / "promised").iterdir()) == []


def test_an_entry_that_is_being_written_is_delivered_afterwards(tmp_path: Path) -> None:
    sweep_dir, tracker = tmp_path / "sweep", RecordingTracker()
    run_folder(sweep_dir, status="failed")  # the earlier attempt, delivered before
    outbox = Outbox(sweep_dir)
    folder = sweep_dir / "cells" / "c0ffee" / "sequential-0"
    with outbox.transaction(folder):
        assert Outbox(sweep_dir).deliver(tracker).n_delivered == 0
        shutil.rmtree(folder)
        run_folder(sweep_dir)
    assert outbox.deliver(tracker).n_delivered == 1
    assert list((outbox.folder / "promised").iterdir()) == []


def test_a_kill_during_a_delivery_leaves_every_run_once(local: TrackingConfig, multirun: Path) -> None:
    sweep_dir = sweep_of(multirun, ratios=(0.1,))
    outbox = Outbox(sweep_dir)
    folders = sorted(path.parent for path in sweep_dir.glob("cells/*/*/result.json"))
    for folder in folders:
        enqueue(outbox, folder)
    # The child is killed between the tracker's confirmation of its first runs and the removal of their entries.
    script = (
        "import os, signal, sys; from pathlib import Path; from src.config import TrackingConfig;"
        "from src.tracking.connect import open_tracker; from src.tracking import outbox;"
        "m = open_tracker(TrackingConfig(name='local', uri=None, experiment='lab'), Path(sys.argv[1]).parent);"
        "real = m.write; m.write = lambda r: (real(r[:5]), os.kill(os.getpid(), signal.SIGKILL));"
        "outbox.Outbox(Path(sys.argv[1])).deliver(m)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(sweep_dir)], check=False, env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL
    uri, tracker = tracking_uri(local, multirun), open_tracker(local, multirun)
    assert uri is not None
    assert tracker is not None
    assert sum(key.level == "run" for key in by_key(uri)) == 5
    assert outbox.deliver(tracker, wait_s=5).n_delivered == len(folders)
    runs = by_key(uri)
    assert sum(key.level == "run" for key in runs) == len(folders)
    assert all(run.info.status == "FINISHED" for key, run in runs.items() if key.level == "run")


def test_the_thread_delivers_entries_while_it_runs_and_at_its_end(local: TrackingConfig, multirun: Path) -> None:
    sweep_dir = multirun / "digits-mlp"
    outbox = Outbox(sweep_dir)
    with Deliverer(sweep_dir, local, interval_s=0.05) as deliverer:
        enqueue(outbox, run_folder(sweep_dir, seed=0))
        deadline = time.monotonic() + 30
        while outbox.entries() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert outbox.entries() == []
        enqueue(outbox, run_folder(sweep_dir, seed=1))
        enqueue(outbox, cell_report(sweep_dir))
    assert deliverer.error is None
    uri = tracking_uri(local, multirun)
    assert uri is not None
    assert sorted(key.level for key in by_key(uri)) == ["cell", "run", "run", "sweep"]


def test_a_tracker_that_was_never_started_costs_one_warning_and_nothing_else(tmp_path: Path) -> None:
    sweep_dir = tmp_path / "multirun" / "digits-mlp"
    tracking = TrackingConfig(name="server", uri="http://ann:s3cret@127.0.0.1:9", experiment="lab")
    warnings: list[str] = []
    outbox = Outbox(sweep_dir)
    for seed in range(3):
        enqueue(outbox, run_folder(sweep_dir, seed=seed))
    deliverer = Deliverer(sweep_dir, tracking, interval_s=0.01, longest_pause_s=0.02, warn=warnings.append).start()
    deadline = time.monotonic() + 30
    while deliverer.error is None and time.monotonic() < deadline:
        time.sleep(0.05)
    deliverer.stop()
    assert len(outbox.entries()) == 3
    assert deliverer.error is not None
    assert len(warnings) == 1
    assert "make sync" in warnings[0]
    assert "s3cret" not in warnings[0] + deliverer.error


def test_a_thread_that_expects_entries_opens_the_tracker_before_the_first(
    local: TrackingConfig, multirun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Creating MLflow's database takes seconds in which the workers of a command still load their modules."""
    opened = threading.Event()

    def open_it(*_: object) -> RecordingTracker:
        opened.set()
        return RecordingTracker()

    monkeypatch.setattr("src.tracking.outbox.open_tracker", open_it)
    with Deliverer(multirun / "digits-mlp", local, interval_s=0.01):
        time.sleep(0.1)
    assert not opened.is_set(), "a command with nothing to deliver does without MLflow"
    with Deliverer(multirun / "digits-mlp", local, interval_s=60, expects=True):
        assert opened.wait(30)


def test_an_expecting_thread_warns_once_of_a_tracker_that_is_down_and_delivers_later(
    local: TrackingConfig, multirun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    tracker, is_down = RecordingTracker(), True

    def open_it(*_: object) -> RecordingTracker:
        if is_down:
            raise TrackerUnavailable("no answer")
        return tracker

    monkeypatch.setattr("src.tracking.outbox.open_tracker", open_it)
    sweep_dir = multirun / "digits-mlp"
    deliverer = Deliverer(sweep_dir, local, interval_s=0.01, expects=True, warn=warnings.append).start()
    time.sleep(0.1)
    assert not warnings, "nothing waits yet"
    with Outbox(sweep_dir).transaction(run_folder(sweep_dir)):
        time.sleep(0.1)
        assert not warnings, "its result is still being written"
    deadline = time.monotonic() + 30
    while not warnings and time.monotonic() < deadline:
        time.sleep(0.01)
    is_down = False
    deliverer.stop()
    assert deliverer.error is None
    assert len(tracker.written) == 1
    assert len(warnings) == 1
    assert "1 entries wait" in warnings[0]


def test_tracking_off_leaves_the_entries_for_a_later_sync(tmp_path: Path) -> None:
    sweep_dir = tmp_path / "multirun" / "digits-mlp"
    enqueue(Outbox(sweep_dir), run_folder(sweep_dir))
    with Deliverer(sweep_dir, TrackingConfig(name="off", uri=None, experiment="lab"), interval_s=0.01):
        pass
    assert len(Outbox(sweep_dir).entries()) == 1
    assert not (tmp_path / "multirun" / "mlflow.db").exists()


def test_putting_an_entry_does_not_import_mlflow() -> None:
    script = "import sys, src.tracking.outbox, src.tracking.reports; print('mlflow' in sys.modules, 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("loss", ["deleted", "emptied", "nothing"])
def test_runs_that_a_lost_database_had_are_counted_with_the_command_that_writes_them(
    loss: str, local: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs whose entries wait are not counted: this command delivers them."""
    monkeypatch.setattr("src.tracking.outbox.open_tracker", lambda *_: RecordingTracker())
    database, warnings = tmp_path / "mlflow.db", []
    database.write_text("tables")
    for sweep, seed in (("a", 0), ("a", 1), ("b", 0)):
        run_folder(tmp_path / sweep, seed=seed)
    enqueue(Outbox(tmp_path / "b"), run_folder(tmp_path / "b", seed=7))
    if loss == "deleted":
        database.unlink()
    elif loss == "emptied":
        database.write_text("")
    Deliverer(tmp_path / "b", local, warn=warnings.append).stop()
    lost = "MLflow's database is new and lacks 3 runs of earlier commands: `make sync` writes them"
    assert warnings == ([] if loss == "nothing" else [lost])
