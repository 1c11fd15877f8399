"""A group of processes for one cell reports the outcome, ends as a whole, and does not outlive its worker."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.cells.outcome import CellOutcome
from src.config import Config, compose
from src.config.serialize import config_text
from src.errors import ClaimLost, Interrupted
from src.sweep.folder import SweepFolder
from src.sweep.processes import Process
from src.sweep.workers.device_group import GroupFailed, answer_is_lost, read_outcome, run_group, run_rank

ENGINE = "tests.sweep.fake_engine"
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    folder = SweepFolder(tmp_path, "s")
    folder.write_queue(None)
    (tmp_path / "cell.yaml").write_text(config_text(config_of(folder)))
    return folder


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[list[bool]]:
    """A worker that answers the group in `tmp_path`: whether the cell is theirs, one answer after the other, and then yes."""
    answers: list[bool] = []
    ended = threading.Event()

    def answer() -> None:
        while not ended.wait(0.01):
            answer_is_lost(tmp_path, lambda: answers.pop(0) if answers else True)

    thread = threading.Thread(target=answer)
    thread.start()
    yield answers
    ended.set()
    thread.join()


def config_of(folder: SweepFolder) -> Config:
    return compose(["seeds=2", "sweep=s", f"multirun={folder.multirun}", "trainer.devices=2", "stopping.epochs=1"])


def behave(folder: SweepFolder, **behaviour: object) -> None:
    (folder.multirun / "fake.json").write_text(json.dumps(behaviour))


@pytest.mark.usefixtures("worker")
def test_the_first_process_reports_the_outcome_of_the_cell(folder: SweepFolder, tmp_path: Path) -> None:
    assert run_rank(folder.multirun, ENGINE, 1, tmp_path) == 0
    with pytest.raises(GroupFailed, match="one of its 2 processes was killed"):
        read_outcome(tmp_path, 2)
    assert run_rank(folder.multirun, ENGINE, 0, tmp_path) == 0
    assert read_outcome(tmp_path, 2) == CellOutcome(0.5)
    assert len(list(tmp_path.glob("s/cells/*/*/result.json"))) == 4


def test_the_first_error_is_the_reason(folder: SweepFolder, tmp_path: Path) -> None:
    behave(folder, **{"raise": [1]})
    assert run_rank(folder.multirun, ENGINE, 1, tmp_path) == 1
    (tmp_path / "error-0").write_text("ConnectionError: the others are gone")
    with pytest.raises(GroupFailed, match="RuntimeError: epochs 1 is cursed"):
        read_outcome(tmp_path, 2)


@pytest.mark.usefixtures("worker")
def test_a_stop_request_ends_a_group_after_the_current_run(folder: SweepFolder, tmp_path: Path) -> None:
    behave(folder, seconds=0.5)

    def stop() -> None:
        while not list(tmp_path.glob("s/cells/*/*/result.json")):
            time.sleep(0.02)
        (tmp_path / "stop").touch()

    threading.Thread(target=stop, daemon=True).start()
    assert run_rank(folder.multirun, ENGINE, 0, tmp_path) == 0
    with pytest.raises(Interrupted):
        read_outcome(tmp_path, 2)
    assert len(list(tmp_path.glob("s/cells/*/*/result.json"))) == 1, "four were to be run"


def test_a_group_whose_cell_was_taken_over_writes_nothing_more(
    folder: SweepFolder, tmp_path: Path, worker: list[bool]
) -> None:
    worker += [True, False]
    assert run_rank(folder.multirun, ENGINE, 0, tmp_path) == 0
    assert json.loads((tmp_path / "outcome.json").read_text())["interrupted"]
    assert len(list(tmp_path.glob("s/cells/*/*/result.json"))) == 1, "four were to be written"


@pytest.mark.parametrize("owns", [True, False])
def test_a_worker_answers_its_group_and_leaves_a_lost_cell_alone(
    folder: SweepFolder, tmp_path: Path, owns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = """
import json, pathlib, sys, time
scratch = pathlib.Path(sys.argv[1])
(scratch / "question").touch()
while not (scratch / "answer").exists():
    time.sleep(0.01)
lost = (scratch / "answer").read_text() == "lost"
(scratch / "outcome.json").write_text(json.dumps({"interrupted": lost, "value": 0.5, "failures": []}))
"""
    command = [sys.executable, "-c", group]
    monkeypatch.setattr("src.sweep.workers.device_group.torchrun", lambda *given: [*command, *given[-1]])
    arguments = (config_of(folder), ENGINE, tmp_path / "lock", None, lambda: False, lambda: owns)
    if owns:
        assert run_group(*arguments) == CellOutcome(0.5)
    else:
        with pytest.raises(ClaimLost):
            run_group(*arguments)


def _work(folder: SweepFolder) -> None:
    with Process(folder, "worker") as process:
        run_group(config_of(folder), ENGINE, process.lock_path, "7,8", lambda: False, lambda: True)


def test_a_group_sees_its_gpus_and_ends_with_its_worker(folder: SweepFolder) -> None:
    behave(folder, seconds=60)
    worker = FORK.Process(target=_work, args=(folder,))
    worker.start()
    diary = folder.root / "ran.txt"
    deadline = time.monotonic() + 600
    while not diary.exists() or diary.read_text().count("sees 7,8 ") < 2:
        assert time.monotonic() < deadline, "the group never started"
        assert worker.is_alive()
        time.sleep(0.1)
    ranks = [int(line.split()[2]) for line in diary.read_text().splitlines() if line.startswith("sees")]
    assert all(_lives(pid) for pid in ranks)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    while any(_lives(pid) for pid in ranks):
        assert time.monotonic() < deadline, "a process outlives its worker"
        time.sleep(0.1)


def _lives(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
