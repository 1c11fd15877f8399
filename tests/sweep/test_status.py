"""What `make status` says of a sweep in each state it can be in, and what it says to do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from src.config import compose
from src.errors import ConfigError
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell
from src.sweep.processes import Member, host_key
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
    with Member(folder, "worker") as member:
        queue = WorkQueue(folder, member, folder.write_queue(None, "none"))
        distributions = queue.distributions()
        distributions.prepare(cell.axes for _, cell in cells)
        queue.enqueue(cells, distributions, alone=True)
        first, second, third = queue.claim(), queue.claim(), queue.claim()
        assert first is not None
        assert second is not None
        assert third is not None
        queue.complete(first, 0.5)
        queue.fail(second, "RuntimeError: [planted]")
        queue.close()
    return folder


def test_without_a_worker_it_says_who_is_gone_what_failed_and_how_to_go_on(folder: SweepFolder) -> None:
    said = "\n".join(status_lines(folder))
    assert "s: 1 done, 1 running, 1 waiting, 1 failed" in said
    assert "gone; its cell ratio=3.0" in said
    assert "taken up again by the next worker or command" in said
    assert "no worker is alive; the same sweep command continues" in said
    assert "failed: ratio=2.0" in said
    assert "RuntimeError: [planted]" in said


def test_with_a_worker_it_says_what_is_left(folder: SweepFolder) -> None:
    with Member(folder, "worker") as member:
        said = "\n".join(status_lines(folder))
    assert f"{member.id}: 0 cells ended, between cells" in said
    assert "left: about" in said
    assert "no worker is alive" not in said


def test_a_worker_of_another_host_counts_while_its_heart_beats(folder: SweepFolder) -> None:
    entry = {"id": "far", "role": "worker", "host": f"elsewhere:{host_key()}", "pid": 1}
    (folder.members / "far.json").write_text(json.dumps(entry))
    assert "far: 0 cells ended, between cells" in "\n".join(status_lines(folder))


def test_a_damaged_queue_is_one_line_with_the_fix(folder: SweepFolder) -> None:
    (folder.root / "queue.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match="delete this file, and the same command fills it again"):
        status_lines(folder)


def test_an_unknown_sweep_names_those_that_there_are(folder: SweepFolder) -> None:
    with pytest.raises(ConfigError, match="sweeps here: s"):
        status_lines(SweepFolder(folder.multirun, "t"))
