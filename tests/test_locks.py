"""A process that is suspended while it holds a lock: the others name it, obey signals, and do not wait for ever."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest

from src import cli, locks
from src.config import compose
from src.errors import ConfigError, Interrupted
from src.locks import abort_waits_if, locked
from src.sweep import __main__ as command
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell
from src.sweep.processes import Process
from src.sweep.queue.queue import WorkQueue
from src.sweep.queue.retry import StorageUnavailable
from src.sweep.workers import local
from src.sweep.workers.worker import work
from tests.sweep import fake_engine

FORK = multiprocessing.get_context("fork")
SECONDS = 20.0
"""Within which a signal is obeyed, where it would otherwise wait for ever; benchmarks.ctrl_c measures how long it takes."""


@contextmanager
def suspended(hold: Callable[[], object]) -> Iterator[int]:
    """The id of a process that called `hold` and was stopped then."""

    def main() -> None:
        kept = hold()
        os.kill(os.getpid(), signal.SIGSTOP)
        del kept

    process = FORK.Process(target=main)
    process.start()
    assert process.pid is not None
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    yield process.pid
    process.kill()
    process.join()


def holding(path: Path) -> Callable[[], object]:
    def hold() -> object:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = locked(path)
        lock.__enter__()
        return lock

    return hold


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The moment at which this process is asked to stop, of the monotonic clock."""
    moment: list[float] = []
    abort_waits_if(lambda: bool(moment) and time.monotonic() > moment[0])
    monkeypatch.setattr(locks, "NOTICE_SECONDS", 0.3)
    monkeypatch.setattr("src.sweep.queue.retry.NOTICE_SECONDS", 0.3)
    yield moment
    abort_waits_if(lambda: False)


def test_the_holder_is_named_once_and_a_request_to_stop_ends_the_wait(
    tmp_path: Path, stop: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "queue.lock"
    with suspended(holding(path)) as pid, caplog.at_level(logging.WARNING):
        stop.append(time.monotonic() + 1)
        with pytest.raises(Interrupted), locked(path):
            pass
        assert time.monotonic() < stop[0] + SECONDS
        (line,) = caplog.messages
        assert line.startswith(f"waiting for {path}, held by process {pid} on {os.uname().nodename} since 2")
        assert line.endswith(f", suspended: continue it by kill -CONT {pid}, or end it by kill -9 {pid}")
        stop.clear()
        with pytest.raises(ConfigError, match=rf"held for over 0.1 s by process {pid} on "), locked(path, seconds=0.1):
            pass
        os.truncate(path, 0)  # it could not sign the lock
        with pytest.raises(ConfigError, match=rf"held for over 0.1 s by process {pid} on "), locked(path, seconds=0.1):
            pass
    with locked(path, seconds=1):
        pass


@pytest.mark.parametrize(("lock", "number"), [("queue.lock", signal.SIGINT), ("study.lock", signal.SIGTERM)])
def test_a_command_and_a_worker_obey_signals_while_they_wait(tmp_path: Path, lock: str, number: signal.Signals) -> None:
    folder = SweepFolder(tmp_path, "s")
    words = ["-m", "stopping.epochs=1,2", "seeds=1", "n_workers=1", f"multirun={tmp_path}", "sweep=s"]
    words.append(f"hydra.sweeper.engine={fake_engine.__name__}")

    def run_command() -> None:
        sys.argv[:] = ["sweep.py", *words]
        local.forks = lambda: False  # the fork server of this process, if other tests started it, is not the fork's
        cli.run(command.main)

    folder.write_queue(None)
    with suspended(holding(folder.root / lock)):
        for main in (run_command, lambda: work(folder, None, fake_engine.__name__)):
            waiting = FORK.Process(target=main)
            waiting.start()
            while not list(folder.processes.glob("*.json")):
                assert waiting.is_alive()
                time.sleep(0.02)
            time.sleep(1)  # it waits now
            assert waiting.is_alive()
            began = time.monotonic()
            os.kill(waiting.pid or 0, number)
            waiting.join(60)
            assert time.monotonic() - began < SECONDS
            assert waiting.exitcode == (130 if main is run_command else 0)
            assert not list(folder.processes.glob("*.json"))


def test_an_open_transaction_of_a_suspended_process_is_named_and_the_wait_ends(
    tmp_path: Path, postgres: str, stop: list[float]
) -> None:
    folder = SweepFolder(tmp_path, f"s{uuid.uuid4().hex}")  # other tests use the same server
    config = compose(["seeds=1", f"multirun={tmp_path}"])
    lines: list[str] = []

    def hold() -> object:
        connection = psycopg2.connect(postgres, application_name="the holder")
        connection.cursor().execute("SELECT * FROM sweeps.trials FOR UPDATE")
        return connection

    with Process(folder, "worker") as process:
        folder.write_queue(postgres)
        queue = WorkQueue(folder, process)
        cells = [("cell", Cell(config))]
        queue.enqueue(cells, queue.parameters([cell for _, cell in cells]), alone=True)
        queue.retry.report = lines.append
        with suspended(hold):
            stop.append(time.monotonic() + 3)
            with pytest.raises(StorageUnavailable):
                queue.claim()
            assert time.monotonic() < stop[0] + SECONDS
        (line,) = lines
        assert "a lock is held by the holder (session " in line
        stop.clear()
        claim = queue.claim()
        assert claim is not None
        assert queue.owns(claim)
        assert queue.complete(claim, 1.0)
        queue.close()
