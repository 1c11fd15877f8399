"""One worker = four workers, bit for bit, and the same command again does nothing: with the real laboratory, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

GRID = ["split.ratio=0.5,2", "split.imbalance=1,2", "split.size=60", "stopping.epochs=2", "seeds=2", "sweep=s"]


def sweep(multirun: Path, n_workers: int) -> str:
    """Runs the grid and returns what the command printed."""
    words = ["-m", *GRID, "tracking=off", f"multirun={multirun}", f"n_workers={n_workers}"]
    done = subprocess.run([sys.executable, "-m", "src.sweep", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def results(multirun: Path) -> dict[str, dict[str, Any]]:
    """The `result` part of every run, by its folder."""
    found = sorted((multirun / "s" / "cells").glob("*/*/result.json"))
    return {str(path.parent.relative_to(multirun)): json.loads(path.read_text())["result"] for path in found}


def test_one_worker_is_four_workers_and_a_rerun_does_nothing(tmp_path: Path) -> None:
    printed = sweep(tmp_path / "w1", 1)
    assert printed == sweep(tmp_path / "w4", 4).replace(str(tmp_path / "w4"), str(tmp_path / "w1"))
    one = results(tmp_path / "w1")
    assert len(one) == 4 * 2 * 2
    assert one == results(tmp_path / "w4")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "w1").rglob("*/cells/**/*") if path.is_file()}
    assert sweep(tmp_path / "w1", 1) == printed
    assert {path: path.stat().st_mtime_ns for path in written} == written
