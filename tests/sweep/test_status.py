"""Output of `make status` for each state of a sweep, with the next step."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from src.config import compose
from src.errors import ConfigError
from src.status import main
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell
from src.sweep.processes import Process
from src.sweep.queue.queue import WorkQueue
from src.sweep.status import status_lines


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """A sweep of four cells: one done, one failed, one left running by a worker that died, one waiting."""
    folder, base = SweepFolder(tmp_path, "s"), compose(["seeds=1"])
    cells = []
    for index in range(4):
        config = dataclasses.replace(base, split=dataclasses.replace(base.split, ratio=index + 1.0))
        cells.append((f"cell{index}", Cell(config, (f"split.ratio={index + 1}",))))
    with Process(folder, "worker") as process:
        folder.write_queue(None)
        queue = WorkQueue(folder, process)
        queue.enqueue(cells, queue.parameters([cell for _, cell in cells]), alone=True)
        first, second, third = queue.claim(), queue.claim(), queue.claim()
        assert first is not None
        assert second is not None
        assert third is not None
        queue.complete(first, 0.5)
        queue.fail(second, "RuntimeError: [planted]")
        third.lock.release()  # as when its worker dies
        queue.close()
    return folder


def test_without_a_worker_it_names_dead_workers_failures_and_the_next_step(folder: SweepFolder) -> None:
    output = "\n".join(status_lines(folder))
    assert "s: 1 of 4 cells done, 1 running, 1 waiting, 1 failed" in output
    assert "the worker of ratio=3.0" in output
    assert "is dead; the next worker or command requeues the cell" in output
    assert "no worker is alive; repeat the sweep's command" in output
    assert "failed: ratio=2.0" in output
    assert "RuntimeError: [planted]" in output


def test_with_a_worker_the_status_has_the_time_left(folder: SweepFolder) -> None:
    with Process(folder, "worker") as process:
        process.update(cell="cell2", n_ended=7)
        output = "\n".join(status_lines(folder))
    assert f"{process.info.id}: 7 cells ended, runs ratio=3.0" in output
    assert "left: about" in output
    assert "no worker is alive" not in output


def test_while_a_command_starts_its_workers_nobody_is_told_to_repeat_it(folder: SweepFolder) -> None:
    with Process(folder, "sweep"):
        output = "\n".join(status_lines(folder))
    assert "no worker is alive yet; the sweep's command is running and starts them" in output
    assert "repeat" not in output


def test_a_sweep_that_cannot_be_read_hides_no_other(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    SweepFolder(folder.multirun, "broken").write_queue("sqlite:////nowhere/study.db")
    monkeypatch.setattr("sys.argv", ["status", f"multirun={folder.multirun}"])
    main()
    shown = capsys.readouterr().out
    assert "broken: its status cannot be read: storage=sqlite:////nowhere/study.db: " in shown
    assert "s: 1 of 4 cells done" in shown
    monkeypatch.setattr("sys.argv", ["status", f"multirun={folder.multirun}", "sweep=broken"])
    with pytest.raises(ConfigError, match=r"^storage="):
        main()


def test_a_damaged_queue_is_one_line_with_the_fix(folder: SweepFolder) -> None:
    (folder.root / "study.journal").write_text("no journal\n" * 1000)
    with pytest.raises(ConfigError, match="delete this file, and the same command fills it again"):
        status_lines(folder)


def test_an_unknown_sweep_names_those_that_there_are(folder: SweepFolder) -> None:
    with pytest.raises(ConfigError, match="sweeps here: s"):
        status_lines(SweepFolder(folder.multirun, "t"))
