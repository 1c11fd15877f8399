"""One worker = four workers in two jobs of a cluster of which one is killed, bit for bit; the same command again does nothing.

With the real laboratory; the cluster is submitit's local one.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from src.sweep import __main__ as main
from src.sweep.processes import is_locked, live_processes
from tests.command import Command

GRID = ["split.ratio=0.5,2", "split.imbalance=1,2", "split.size=60", "stopping.epochs=2", "seeds=2", "sweep=s"]


def kill_a_worker(multirun: Path) -> None:
    """Kills the first worker that has claimed a cell."""
    deadline = time.monotonic() + 600
    while True:
        assert time.monotonic() < deadline, "no worker has ever claimed a cell"
        time.sleep(0.05)
        workers = [info for info in live_processes(multirun / "s/processes") if info.role == "worker"]
        if workers and any(is_locked(path) for path in multirun.glob("s/cells/*/.lock")):
            os.kill(workers[0].pid, signal.SIGKILL)
            return


def results(multirun: Path) -> dict[str, dict[str, Any]]:
    """The `result` part of every run, by its folder."""
    found = sorted((multirun / "s" / "cells").glob("*/*/result.json"))
    return {str(path.parent.relative_to(multirun)): json.loads(path.read_text())["result"] for path in found}


def test_four_workers_in_two_jobs_one_killed_equal_one_worker_and_a_rerun_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command("sweep", main.main, monkeypatch, capsys, "tracking=off")

    def sweep(folder: str, *words: str) -> str:
        done = command("-m", *GRID, f"multirun={tmp_path / folder}", *words)
        assert done.code == 0, done.err
        return done.out

    printed = sweep("w1", "n_workers=1")
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "w4",))
    killer.start()
    again = sweep("w4", "launcher=slurm", "launcher.cluster=local", "launcher.jobs=2", "n_workers=2")
    killer.join()
    assert printed == again.replace(str(tmp_path / "w4"), str(tmp_path / "w1"))
    one = results(tmp_path / "w1")
    assert len(one) == 4 * 2 * 2
    assert one == results(tmp_path / "w4")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "w1").rglob("*/cells/**/*") if path.is_file()}
    assert sweep("w1", "n_workers=1") == printed
    assert {path: path.stat().st_mtime_ns for path in written} == written
