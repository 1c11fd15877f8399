"""A cell is stopped or preferred while a sweep runs, and a user's command hears of failures and the end."""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

import pytest

from src import status
from src.errors import ConfigError
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell
from src.sweep.notify import Notifier
from src.sweep.processes import Process
from src.sweep.queue.queue import STOPPED, WorkQueue
from src.sweep.status import run_next, stop_cell
from src.sweep.workers.worker import work
from tests.sweep import fake_engine
from tests.sweep.test_worker import behave, diary, queued, trials

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path, "s")


def test_the_next_claim_is_the_preferred_cell_also_of_a_worker_that_has_listed_the_queue(folder: SweepFolder) -> None:
    cells = [fake_engine.resolve(config).hash for config in queued(folder, n_cells=4)]
    with Process(folder, "worker") as process:
        queue = WorkQueue(folder, process)
        claims = [queue.claim()]
        assert "is the next" in run_next(folder, cells[3][:8])
        claims += [queue.claim(), queue.claim()]
        assert [claim.cell for claim in claims if claim] == [cells[0], cells[3], cells[1]]
        queue.close()


def test_a_stopped_cell_ends_as_failed_and_the_command_queues_it_again(folder: SweepFolder) -> None:
    """One that waits at once; one that runs when its worker next looks; the others run on."""
    configs = queued(folder, "seeds=40", n_cells=3)
    running, waiting, last = (fake_engine.resolve(config).hash for config in configs)
    behave(folder, seconds=0.1)
    worker = FORK.Process(target=work, args=(folder, None, fake_engine.__name__))
    worker.start()
    while not any(line.startswith("run ") for line in diary(folder)):
        time.sleep(0.01)
    assert "is stopped" in stop_cell(folder, waiting)
    assert "stops at its next update" in stop_cell(folder, running)
    behave(folder, seconds=0.0)
    worker.join(60)
    found = {trial.user_attrs["cell"]: trial for trial in trials(folder)}
    states = [found[cell].state.name for cell in (running, waiting, last)]
    assert states == ["FAIL", "FAIL", "COMPLETE"]
    assert {found[cell].user_attrs["reason"] for cell in (running, waiting)} == {STOPPED}
    runs = [line for line in diary(folder) if line.startswith(f"run {running}")]
    assert 0 < len(runs) < 80
    assert not any(line.startswith(f"run {waiting}") for line in diary(folder))
    with Process(folder, "sweep") as process:
        queue = WorkQueue(folder, process)
        cell = Cell(configs[1])
        queue.enqueue([(waiting, cell)], queue.parameters([cell]), alone=True)
        claim = queue.claim()
        assert claim is not None
        assert claim.cell == waiting
        assert not queue.is_stopped(claim)
        queue.close()


@pytest.mark.parametrize("cell", ["", "zz"])
def test_a_cell_that_is_not_there_is_one_line_with_those_that_are(folder: SweepFolder, cell: str) -> None:
    (config,) = queued(folder, n_cells=1)
    with pytest.raises(ConfigError, match=f"^stop={cell}: no cell of the grid .*{fake_engine.resolve(config).hash}"):
        stop_cell(folder, cell)


def test_status_steers_and_watches_until_nothing_waits(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (config,) = queued(folder, n_cells=1)
    cell = fake_engine.resolve(config).hash
    shown: list[float] = []

    def stop_after_two(seconds: float) -> None:
        shown.append(seconds)
        if len(shown) == 2:
            stop_cell(folder, cell)

    monkeypatch.setattr(status.time, "sleep", stop_after_two)
    monkeypatch.setattr(sys, "argv", ["src/status.py", "sweep=s", f"multirun={folder.multirun}", "watch=true"])
    status.main()
    out = capsys.readouterr().out
    assert out.count("s: 0 of 1 cells done, 0 running, 1 waiting") == 2
    assert "0 waiting, 1 failed" in out
    assert STOPPED in out
    monkeypatch.setattr(sys, "argv", ["src/status.py", f"multirun={folder.multirun}", "stop=ab"])
    with pytest.raises(SystemExit):
        status.main()
    assert capsys.readouterr().err == "error: stop=ab: name the sweep, e.g. sweep=s\n"


def test_a_command_hears_of_the_first_failure_and_of_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "told.txt"
    command = f'printf "%s %s %s\\n" "$SWEEP" "$EVENT" "$MESSAGE" >> {told}'
    notifier = Notifier(command, "s")
    with notifier.end():
        notifier.failed("first; $(touch hacked)")
        notifier.failed("second")
    with pytest.raises(KeyboardInterrupt), notifier.end():
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="full"), notifier.end():
        raise OSError("full")
    assert told.read_text().splitlines() == [
        "s failed first; $(touch hacked)",
        "s done all cells are done",
        "s stopped ",
        "s error OSError: full",
    ]
    with Notifier("exit 3", "s").end():
        pass
    assert "notify=exit 3: " in capsys.readouterr().err
