"""A process of a sweep counts as alive while its lock is held, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from src.sweep.folder import SweepFolder
from src.sweep.processes import Process, live_processes

STAY = """
import sys, time
from pathlib import Path
from src.sweep.folder import SweepFolder
from src.sweep.processes import Process
with Process(SweepFolder(Path(sys.argv[1]), "s"), "worker") as process:
    print(process.info.id, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path, "s")


@contextmanager
def a_worker(folder: SweepFolder) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process and its id."""
    command = [sys.executable, "-c", STAY, str(folder.multirun)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()


def test_a_killed_process_is_dead_at_once_and_a_live_one_is_not(folder: SweepFolder) -> None:
    with a_worker(folder) as (process, other), Process(folder, "sweep") as me:
        assert [info.id for info in me.others("worker")] == [other]
        assert me.others("sweep") == []
        process.kill()
        process.wait()
        assert me.others("worker") == []
        assert not list(folder.processes.glob(f"{other}*")), "its entry is removed"


def test_a_process_that_exits_leaves_no_entry(folder: SweepFolder) -> None:
    with Process(folder, "sweep"), Process(folder, "worker") as other:
        assert len(live_processes(folder.processes)) == 2
        other.update(cell="c", n_ended=1)
        other.update(cell=None, n_ended=1)
        (info,) = [info for info in live_processes(folder.processes) if info.role == "worker"]
        assert (info.cell, info.n_ended) == (None, 2)
    assert list(folder.processes.iterdir()) == []


def test_a_process_that_exits_removes_the_entries_of_dead_ones(folder: SweepFolder) -> None:
    with a_worker(folder) as (process, _):
        with Process(folder, "sweep"):
            pass
        assert len(list(folder.processes.glob("*.json"))) == 1, "it is alive"
        process.kill()
        process.wait()
        with Process(folder, "sweep"):
            pass
    assert list(folder.processes.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"id": "other"}'])
def test_a_file_that_a_power_cut_damaged_counts_as_a_dead_process(content: bytes, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "s")
    with Process(folder, "worker") as process, Process(folder, "status") as watching:
        process.lock_path.with_suffix(".json").write_bytes(content)
        assert watching.others("worker") == []
