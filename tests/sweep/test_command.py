"""The sweep as a user runs it: nothing is lost or run twice, and every error is one line before anything runs.

The engine is a fake one that counts its runs (tests/sweep/fake_engine.py); queue, workers and signals are real.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from src import cli as entry
from src.sweep import __main__ as sweep
from src.sweep import fork_server
from src.sweep.engine import Engine, load_engine
from src.sweep.processes import live_processes
from src.sweep.workers.local import PROJECT
from tests.command import Command, Done
from tests.golden.files import write_images

ENGINE = "hydra.sweeper.engine=tests.sweep.fake_engine"
GRID = ["split.ratio=0.1,1", "stopping.epochs=1,2", "seeds=2"]
N_RUNS = 16


class Sweeper(Command):
    """``python -m src.sweep`` with the fake engine."""

    def sweep(self, multirun: Path, *overrides: str, n_workers: int = 1) -> Done:
        return self("-m", *overrides, *settings(multirun, n_workers))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sweeper:
    return Sweeper("sweep", sweep.main, monkeypatch, capsys, ENGINE)


@pytest.fixture(autouse=True, scope="module")
def _compiled() -> Iterator[None]:
    """Let Python write compiled modules, which some environments forbid: workers then start twice as fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


def settings(multirun: Path, n_workers: int) -> list[str]:
    return [f"multirun={multirun}", "sweep=s", f"n_workers={n_workers}"]


def started(multirun: Path, *overrides: str, n_workers: int = 2) -> subprocess.Popen[str]:
    """Start the command in its own process."""
    command = [sys.executable, "-m", "src.sweep", "-m", *overrides, *settings(multirun, n_workers), ENGINE]
    return subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)


def diary(multirun: Path, kind: str) -> Counter[str]:
    """Events of the fake engine with their counts."""
    path = multirun / "s/ran.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(line.partition(" ")[2] for line in lines if line.startswith(kind))


def wait_for(condition: str, holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"timed out: {condition}"
        time.sleep(0.05)


def pids(multirun: Path, role: str) -> list[int]:
    """Ids of the sweep's live processes with that role."""
    return [info.pid for info in live_processes(multirun / "s/processes") if info.role == role]


def behave(multirun: Path, **behaviour: object) -> None:
    multirun.mkdir(exist_ok=True)
    (multirun / "fake.json").write_text(json.dumps(behaviour))


def test_a_sweep_runs_everything_once_then_nothing_then_only_what_is_new(tmp_path: Path, command: Sweeper) -> None:
    first = command.sweep(tmp_path, *GRID, n_workers=2)
    assert first.code == 0, first.err
    assert "cells 4/4 | runs 16/16" in first.err
    assert "so far combined 4" in first.err
    done = diary(tmp_path, "run")
    assert len(done) == N_RUNS

    again = command.sweep(tmp_path, *GRID)
    assert again.code == 0, again.err
    assert diary(tmp_path, "run") == done
    assert diary(tmp_path, "finish") == Counter({"4": 2}), "a finished sweep still prints its table"

    # one more ratio, reordered, one seed more on the old cells
    grown = command.sweep(tmp_path, "stopping.epochs=2,1", "split.ratio=1,10,0.1", "seeds=3")
    assert grown.code == 0, grown.err
    after = diary(tmp_path, "run")
    assert set(after.values()) == {1}
    assert len(after) == 6 * 2 * 3
    assert done.keys() <= after.keys()

    shrunk = command.sweep(tmp_path, "stopping.epochs=2", "split.ratio=10,1", "seeds=[2,0]")
    assert shrunk.code == 0, shrunk.err
    assert diary(tmp_path, "run") == after


def test_what_workers_need_is_loaded_while_a_new_sweep_is_planned(
    tmp_path: Path, command: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    start, load = fork_server.start, load_engine

    def start_noted(engine: str, environment: Mapping[str, str]) -> None:
        steps.append("fork server")
        start(engine, environment)

    def load_noted(name: str) -> Engine:
        steps.append("engine")
        return load(name)

    monkeypatch.setattr(fork_server, "start", start_noted)
    monkeypatch.setattr("src.sweep.command.load_engine", load_noted)
    assert command.sweep(tmp_path, *GRID, "dry_run=true").code == 0
    assert steps == ["engine"], "a dry run starts no worker"
    steps.clear()
    assert command.sweep(tmp_path, *GRID).code == 0
    assert steps[:2] == ["fork server", "engine"]
    steps.clear()
    assert command.sweep(tmp_path, *GRID).code == 0
    assert steps == ["engine"], "nothing is missing"


def test_a_cell_that_raises_does_not_stop_the_others_and_is_tried_by_the_next_command(
    tmp_path: Path, command: Sweeper
) -> None:
    behave(tmp_path, **{"raise": [2]})
    told = tmp_path / "told.txt"
    notify = f"notify='echo $SWEEP $EVENT: $MESSAGE >> {told}'"
    first = command.sweep(tmp_path, "stopping.epochs=1,2,3", "seeds=1", notify)
    assert first.code == 1
    failed, done = told.read_text().splitlines()
    assert failed.startswith("s failed: ")
    assert "epochs 2 is cursed" in failed
    assert done == "s done: 1 cells failed"
    assert not any("told.txt" in path.read_text() for path in tmp_path.rglob("*.yaml")), "it is in no file of the sweep"
    assert "failed: cell" in first.err
    assert "RuntimeError: epochs 2 is cursed" in first.err
    assert "Traceback" not in first.err
    assert len(diary(tmp_path, "run")) == 4
    behave(tmp_path)
    assert command.sweep(tmp_path, "stopping.epochs=1,2,3", "seeds=1").code == 0
    assert Counter(diary(tmp_path, "run").values()) == Counter({1: 6})


def test_a_cell_that_kills_its_workers_is_given_up_and_the_others_finish(tmp_path: Path, command: Sweeper) -> None:
    behave(tmp_path, die=[1])
    done = command.sweep(tmp_path, "stopping.epochs=1,2", "seeds=1")
    assert done.code == 1
    assert "its worker died 4 times" in done.err
    assert len(diary(tmp_path, "run")) == 2
    assert sorted(diary(tmp_path, "cell").values()) == [1, 4]
    (failed,) = tmp_path.glob("s/cells/*/failed.txt")
    assert "died 4 times" in failed.read_text()


def test_a_killed_worker_costs_nothing(tmp_path: Path) -> None:
    behave(tmp_path, seconds=0.2)
    with started(tmp_path, *GRID) as parent:
        wait_for("two runs are done", lambda: len(diary(tmp_path, "run")) >= 2)
        os.kill(pids(tmp_path, "worker")[0], signal.SIGKILL)
        assert parent.stderr is not None
        output = parent.stderr.read()
        assert parent.wait(120) == 0, output
    done = diary(tmp_path, "run")
    assert len(done) == N_RUNS
    assert set(done.values()) == {1}


def test_all_killed_at_once_the_same_command_finishes_the_rest(tmp_path: Path, command: Sweeper) -> None:
    behave(tmp_path, seconds=0.2)
    with started(tmp_path, *GRID) as parent:
        wait_for("three runs are done", lambda: len(diary(tmp_path, "run")) >= 3)
        for process in [parent.pid, *pids(tmp_path, "worker")]:
            os.kill(process, signal.SIGKILL)
    behave(tmp_path)
    again = command.sweep(tmp_path, *GRID)
    assert again.code == 0, again.err
    done = diary(tmp_path, "run")
    assert len(done) == N_RUNS
    assert set(done.values()) == {1}


SEARCH = ["search=tpe", "search.n_trials=6", "objective=sequential/val/union/accuracy", "seeds=2"]
LR = "optimizer.lr=tag(log,interval(1e-3,0.9))"


def test_a_killed_search_resumes_with_the_same_points_and_reports_the_remaining_ones(
    tmp_path: Path, command: Sweeper
) -> None:
    behave(tmp_path, seconds=0.1)
    with started(tmp_path, *SEARCH, LR, n_workers=1) as parent:
        wait_for("five runs are done", lambda: len(diary(tmp_path, "run")) >= 5)
        for process in [parent.pid, *pids(tmp_path, "worker")]:
            os.kill(process, signal.SIGKILL)
    behave(tmp_path)
    dry = command.sweep(tmp_path, *SEARCH, LR, "dry_run=true")
    assert dry.code == 0
    assert "optimizer.lr: 0.001 to 0.9, log" in dry.out
    assert "maximize sequential/val/union/accuracy, mean over 2 seeds" in dry.out
    assert "1 trials done, 5 left, of 4 runs each" in dry.out
    again = command.sweep(tmp_path, *SEARCH, LR)
    assert again.code == 0, again.err
    assert "trials 6/6 | best" in again.err
    done = diary(tmp_path, "run")
    assert len(done) == 6 * 4
    assert set(done.values()) == {1}
    assert command.sweep(tmp_path, *SEARCH, LR).code == 0
    assert diary(tmp_path, "run") == done
    (points,) = {line.split()[0] for line in diary(tmp_path, "finish")}
    assert points == "6"


def test_two_equal_sweeps_at_once_share_the_work(tmp_path: Path) -> None:
    behave(tmp_path, seconds=0.05)
    pair = [started(tmp_path, *GRID, n_workers=1) for _ in range(2)]
    assert [process.communicate(timeout=120) and process.returncode for process in pair] == [0, 0]
    done = diary(tmp_path, "run")
    assert len(done) == N_RUNS
    assert set(done.values()) == {1}


def test_a_dry_run_lists_the_missing_runs_and_changes_nothing(tmp_path: Path, command: Sweeper) -> None:
    multirun = tmp_path / "multirun"
    dry = ["-m", *GRID, *settings(multirun, 2), "dry_run=true"]
    output = command(*dry)
    assert output.code == 0
    assert "cells: 4, 4 with missing runs" in output.out
    assert "runs: 16, done 0, missing 16" in output.out
    assert not multirun.exists()
    assert command.sweep(multirun, "split.ratio=0.1", "stopping.epochs=1,2", "seeds=2").code == 0
    output = command(*dry)
    assert "runs: 16, done 8, missing 8" in output.out
    estimate = "time: about 8 s with 2 workers, if a run takes 2 s, the mean of this sweep's runs so far"
    assert estimate in output.out, "8 runs of 2 s each on 2 workers"


def test_a_dry_run_shows_what_the_photos_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sizes and classes of two folders are the data's own, not those of the default split."""
    for name, per_class in (("old", 20), ("new", 10)):
        write_images(tmp_path / name, per_class=per_class, side=12)
    (tmp_path / "new" / "left").rename(tmp_path / "new" / "below")
    paths = (f"data.path={tmp_path / 'old'}", f"data.path2={tmp_path / 'new'}", "data.image_size=12")
    command = Command("sweep", sweep.main, monkeypatch, capsys)
    done = command("data=image_folder", *paths, "arch=cnn", "dry_run=true", f"multirun={tmp_path / 'multirun'}")
    assert (done.code, done.err) == (0, "")
    first, *others = done.out.splitlines()
    assert " ratio=0.5 shift=none " in first
    assert "imbalance" not in first
    assert others[:2] == [
        "    Dataset 1: 42 training samples of 3x12x12: left 14, right 14, top 14",
        "    Dataset 2: 21 training samples of 3x12x12: right 7, top 7, below 7",
    ]


@pytest.mark.server
def test_a_password_in_the_storage_is_in_no_file(
    tmp_path: Path, command: Sweeper, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "")  # restores the value that the command sets
    url = postgres.replace("lab@", "lab:geheim@")
    words = ["split.ratio=0.1,1", "stopping.epochs=1", "seeds=1", f"storage='{url}'", f"sweep=s{os.getpid()}"]
    done = command("-m", *words, f"multirun={tmp_path}", "n_workers=1")
    assert done.code == 0, done.err
    assert os.environ["PGPASSWORD"] == "geheim", "for the workers"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "queue.json" for path in written)
    assert any(path.suffix == ".log" for path in written)
    assert not [path for path in written if b"geheim" in path.read_bytes()]
    assert "geheim" not in done.out + done.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["split.ration=1"], ["split.ration=1", "did you mean split.ratio?"]),
        (["ratio=3"], ["ratio=3", "did you mean split.ratio?"]),
        (["arch=mpl"], ["arch=mpl", "did you mean mlp?"]),
        (["-m", "arch=mlp,mpl"], ["arch=mpl", "did you mean mlp?"]),
        (["stopping.updates=100"], ["stopping.updates=100", "stopping=budget"]),
        (["split.ratio=0.1,1"], ["split.ratio=0.1,1", "-m"]),
        (["-m", "split.ratio=0.1,0"], ["split.ratio=0", "> 0"]),
        (["split.ratio=many"], ["split.ratio=many", "a number"]),
        (["-m", "split.ratio=0.1,1", "stopping.epoch=1,2"], ["stopping.epoch=1", "did you mean stopping.epochs?"]),
        (["split.ratio=[1"], ["split.ratio=[1", "is not an override"]),
        (["nonsense"], ["nonsense", "key=value"]),
        (["--ratio", "3"], ["--ratio", "key=value"]),
        (["search=tpe"], ["search=tpe", "nothing to choose", "interval"]),
        (["objective=sequential/val/union/loss"], ["objective=sequential/val/union/loss", "search=tpe"]),
        (["storage=mysql://here"], ["storage=mysql://here", "postgresql://"]),
        (["tracking.uri=http://me:geheim@here"], ["tracking.uri=http://me@here", "MLFLOW_TRACKING_PASSWORD"]),
        (["-m", "n_workers=1,2"], ["n_workers=1,2", "cannot be an axis"]),
    ],
)
def test_an_error_is_one_line_with_key_value_and_fix_and_nothing_runs(
    arguments: list[str],
    named: list[str],
    tmp_path: Path,
    command: Sweeper,
) -> None:
    output = command(*arguments, f"multirun={tmp_path}/multirun")
    assert output.code == 2
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in named), line
    assert "geheim" not in line
    assert not (tmp_path / "multirun").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, command: Sweeper) -> None:
    (tmp_path / "multirun").touch()
    output = command("-m", *GRID, *settings(tmp_path / "multirun", 1))
    assert output.code == 2
    (line,) = output.err.splitlines()
    assert line.startswith(f"error: {tmp_path}/multirun")
    assert "multirun=FOLDER" in line


def test_a_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["src/sweep.py", "split.ratio=many"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match=r"split\.ratio=many"):
        entry.run(sweep.main)
