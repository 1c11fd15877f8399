"""A PostgreSQL server that fails during a sweep: after a restart every cell runs exactly once; otherwise one line reports it.

The server is real and is stopped as in a crash; queue, workers and command are real, the engine counts its runs.
"""

from __future__ import annotations

import re
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from benchmarks.reliability.sweeps import Sweep
from src import cli as entry
from src.cells.outcome import CellOutcome
from src.config import compose
from src.sweep import __main__ as command
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell
from src.sweep.processes import Process
from src.sweep.queue import retry
from src.sweep.queue.queue import MAX_ATTEMPTS, WorkQueue
from src.sweep.queue.retry import StorageUnavailable
from src.urls import with_driver
from tests import postgres as servers
from tests.postgres import NoPostgres, Server

pytestmark = pytest.mark.server
N_CELLS = 12


@pytest.fixture
def server() -> Iterator[Server]:
    try:
        with servers.serving() as server:
            yield server
    except NoPostgres as error:
        pytest.skip(f"no PostgreSQL: {error}")


def a_sweep(tmp_path: Path, server: Server, *, n_workers: int) -> Sweep:
    """A sweep of `N_CELLS` cells with one run of 0.5 s each."""
    multirun = tmp_path / "multirun"
    multirun.mkdir()
    (multirun / "fake.json").write_text('{"seconds": 0.5}')
    epochs = ",".join(map(str, range(1, N_CELLS + 1)))
    cells = [
        f"stopping.epochs={epochs}",
        "regimes=[combined]",
        "seeds=1",
        f"n_workers={n_workers}",
        f"storage='{server.url}'",
    ]
    return Sweep(multirun, ["hydra.sweeper.engine=tests.sweep.fake_engine", *cells])


def diary(sweep: Sweep, kind: str) -> Counter[str]:
    """Events of the fake engine with their counts."""
    path = sweep.folder / "ran.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(line.partition(" ")[2] for line in lines if line.startswith(f"{kind} "))


def logs(sweep: Sweep) -> list[str]:
    """Output of each worker."""
    return [path.read_text() for path in sorted((sweep.folder / "logs").glob("*.log"))]


def n_runs(sweep: Sweep) -> int:
    return diary(sweep, "run").total()


def wait_for(condition: str, holds: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"timed out: {condition}"
        time.sleep(0.05)


def test_a_server_that_restarts_costs_nothing(tmp_path: Path, server: Server) -> None:
    sweep = a_sweep(tmp_path, server, n_workers=2)
    with sweep.start() as process:
        wait_for(
            "both workers have done a run",
            lambda: len(logs(sweep)) == 2 and all("finished" in output for output in logs(sweep)),
        )
        server.stop()
        wait_for(
            "all have noticed",
            lambda: all("does not answer" in output for output in [sweep.output_text(), *logs(sweep)]),
        )
        server.start()
        assert process.wait(120) == 0, sweep.output_text()
    for kind in ("cell", "run"):
        assert list(diary(sweep, kind).values()) == [1] * N_CELLS, f"each {kind} exactly once"
    assert sweep.output_text().count("retrying for 5 min") == 1
    assert sweep.output_text().count("is available again") == 1
    assert len(logs(sweep)) == 2
    for log in logs(sweep):
        assert log.count("does not answer") == log.count("is available again") == 1
    assert not re.search("Traceback|ERROR", "".join([sweep.output_text(), *logs(sweep)]))


def test_a_server_that_stays_down_is_reported_in_one_line_and_the_same_command_resumes(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = a_sweep(tmp_path, server, n_workers=1)
    monkeypatch.setattr(retry, "RETRY_SECONDS", 1.0)
    monkeypatch.setattr(sys, "argv", ["src/sweep.py", *sweep.arguments])
    stopping = threading.Thread(target=lambda: (wait_for("a run is done", lambda: n_runs(sweep) >= 1), server.stop()))
    stopping.start()
    with pytest.raises(SystemExit, match="2"):
        entry.run(command.main)
    stopping.join()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: storage={server.url}: has not answered for ")
    assert line.endswith("all results are on disk; start the server and repeat the command")
    assert not sweep.workers(), "the workers obey the stop request and do not wait for the server"
    assert 1 <= n_runs(sweep) < N_CELLS
    server.start()
    assert sweep.run() == 0, sweep.output_text()
    assert list(diary(sweep, "run").values()) == [1] * N_CELLS


@pytest.fixture
def queue(tmp_path: Path, postgres: str) -> Iterator[WorkQueue]:
    """A queue with one waiting cell."""
    folder = SweepFolder(tmp_path, f"s{secrets.token_hex(4)}")
    with Process(folder, "worker") as process:
        folder.write_queue(postgres)
        queue = WorkQueue(folder, process)
        fill(queue)
        yield queue
        queue.close()


def fill(queue: WorkQueue) -> None:
    cell = Cell(compose(["seeds=1"]), ("split.ratio=1",))
    queue.enqueue([("cell", cell)], queue.parameters([cell]), alone=False)


def lose_the_next_reply(queue: WorkQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks the connection after the next change of a trial is committed and before its reply."""
    storage = queue._store.storage
    methods = {name: getattr(storage, name) for name in ("create_new_trial", "set_trial_state_values")}

    def broken(name: str) -> Callable[..., None]:
        def change(*args: object, **kwargs: object) -> None:
            methods[name](*args, **kwargs)
            for each, method in methods.items():
                monkeypatch.setattr(storage, each, method)
            raise sqlalchemy.exc.OperationalError("COMMIT", None, Exception("server closed the connection"))

        return change

    for name in methods:
        monkeypatch.setattr(storage, name, broken(name))


def test_a_change_whose_reply_was_lost_is_made_once(queue: WorkQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "INTERVAL_SECONDS", 0.0)
    lose_the_next_reply(queue, monkeypatch)
    fill(queue)
    assert len(queue.trials()) == 1

    lose_the_next_reply(queue, monkeypatch)
    claim = queue.claim()
    assert claim is not None, "the worker gets its own claim, not another worker's"
    assert queue.claim() is None

    lose_the_next_reply(queue, monkeypatch)
    queue.requeue(claim)
    again = queue.claim()
    assert again is not None

    lose_the_next_reply(queue, monkeypatch)
    queue.tell(again, CellOutcome(0.25))
    (trial,) = queue.trials()
    assert (trial.state.name, trial.value) == ("COMPLETE", 0.25)


def test_a_connection_that_breaks_while_trials_are_read_is_retried(
    queue: WorkQueue, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna tries a second statement in the broken transaction, whose error says nothing of the connection."""
    monkeypatch.setattr(retry, "INTERVAL_SECONDS", 0.0)
    administrator = sqlalchemy.create_engine(with_driver(postgres))
    broken: list[int] = []
    reports: list[str] = []

    def end_the_connection(_connection: sqlalchemy.Connection, cursor: Any, statement: str, *_: object) -> None:
        if not broken and "FROM trial_intermediate_values" in statement:
            broken.append(cursor.connection.info.backend_pid)
            with administrator.begin() as other:
                other.execute(sqlalchemy.text(f"SELECT pg_terminate_backend({broken[0]}, 10000)"))

    queue._store.retry.report = reports.append
    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", end_the_connection)
    try:
        assert [trial.state.name for trial in queue.trials()] == ["WAITING"]
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", end_the_connection)
        administrator.dispose()
    assert broken
    (unavailable, available) = reports
    assert "server closed the connection" in unavailable
    assert available.endswith("is available again")


def test_the_cell_of_a_dead_worker_is_requeued_once_and_reported_though_replies_are_lost(
    queue: WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "INTERVAL_SECONDS", 0.0)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        claim = queue.claim()
        assert claim is not None
        assert claim.trial.user_attrs.get("attempt", 1) == attempt
        claim.lock.release()  # as when its worker dies
        lose_the_next_reply(queue, monkeypatch)
        failed = queue.requeue_stale()
    assert [trial.number for trial in failed] == [claim.trial.number]
    assert len(queue.trials()) == MAX_ATTEMPTS


def test_a_process_that_is_to_stop_does_not_wait(queue: WorkQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    queue.retry.report, queue.retry.should_abort = lines.append, lambda: True
    lose_the_next_reply(queue, monkeypatch)
    with pytest.raises(StorageUnavailable, match="all results are on disk"):
        queue.claim()
    assert len(lines) == 1
    assert queue.claim() is None, "the claim is committed"
