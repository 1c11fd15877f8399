"""An engine that trains nothing: a run is a result.json and a line in ``ran.txt``, so that every run can be counted.

``multirun/fake.json`` configures its faults: {"seconds": of a run, "raise": epochs of the cells that raise,
"die": epochs of the cells that kill their worker, "die_once": the same, but only the first time, "no_memory": epochs of
the cells whose device has too little memory, "no_memory_once": the same, but only the first time}.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from src.cells.outcome import CellOutcome
from src.cells.resolve import ResolvedCell
from src.comparison.metrics import Score
from src.config import Config, Objective, cell_hash
from src.sweep.engine import Report
from src.training.control import NO_CONTROL, RunControl

if TYPE_CHECKING:  # loads torch: every command and worker of this engine would wait for it
    from src.data.split import StreamFactory


def load() -> None:
    """It needs nothing else."""


def resolve(config: Config) -> ResolvedCell:
    """A cell without data."""
    return ResolvedCell(config, cast("StreamFactory", SimpleNamespace(chosen_classes=None)), cell_hash(config, "fake"))


def run_cell(resolved: ResolvedCell, control: RunControl = NO_CONTROL) -> CellOutcome:
    config = resolved.config
    behaviour = _behaviour(config)
    cell, epochs = resolved.folder, config.axes()["epochs"]
    note(config, f"cell {cell.name}")
    note(config, f"sees {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.getpid()}")
    if epochs in behaviour.get("raise", []):
        raise RuntimeError(f"epochs {epochs} is cursed")
    first_time = not (cell / "died").exists()
    if epochs in behaviour.get("die", []) or (epochs in behaviour.get("die_once", []) and first_time):
        (cell / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    short_of_memory = epochs in behaviour.get("no_memory", [])
    short_of_memory |= epochs in behaviour.get("no_memory_once", []) and not (cell / "no_memory").exists()
    if short_of_memory:
        (cell / "no_memory").touch()
        time.sleep(behaviour.get("seconds", 0.0))
        note(config, f"left {cell.name}")
        return CellOutcome(None, ("sequential-0: OutOfMemoryError: planted",), out_of_memory=True)
    for regime, seed in resolved.missing_runs():
        time.sleep(behaviour.get("seconds", 0.0))
        control.on_stage()
        control.before_run()
        folder = resolved.run_folder(regime, seed)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".result.{os.getpid()}"
        temporary.write_text(json.dumps({"provenance": {"seconds": 2.0}}))
        temporary.replace(folder / "result.json")
        note(config, f"run {cell.name}/{folder.name}")
        control.on_run(folder)
    note(config, f"left {cell.name}")
    return CellOutcome(0.5)


def help_cell(resolved: ResolvedCell, control: RunControl) -> None:
    """It trains no stage."""
    control.on_stage()
    note(resolved.config, f"helped {resolved.hash}")


def free_device() -> None:
    """It keeps nothing on a device."""


def record_failure(cell: ResolvedCell, reason: str) -> None:
    (cell.folder / "failed.txt").write_text(reason)


class session:
    """Print no report; record the call in the diary."""

    def __init__(self, cells: Sequence[ResolvedCell]) -> None:
        self._cells = {cell.hash: cell for cell in cells}
        self._config = cells[0].config

    def __enter__(self) -> session:
        note(self._config, f"start {len(self._cells)}")
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def verdict(self, cell_hash: str) -> str | None:
        return "combined" if not self._cells[cell_hash].missing_runs() else None

    def finish(self, cells: Sequence[ResolvedCell], report: Report) -> None:
        del report
        note(self._config, f"finish {len(cells)}")


def score(cell: ResolvedCell, objective: Objective) -> Score:
    """Best at lr 0.1, where both regimes are equal; diverges above 0.9."""
    lr = cell.config.optimizer.lr
    if lr > 0.9:
        return Score(None, "diverged, says the fake", diverged=True)
    if cell.missing_runs():
        return Score(None, "runs are missing")
    means = {label: 1 - abs(lr - 0.1) * (1 + index) for index, label in enumerate(objective.of)}
    gap = math.log10(lr / 0.02)  # of the two regimes, between -1.3 and 1.4
    return Score(means, differences=[gap + math.sin(7 * seed) for seed in cell.config.seeds] if len(means) == 2 else ())


def note(config: Config, line: str) -> None:
    """One line in the sweep's diary; appended whole, also by several processes at once."""
    path = Path(config.multirun) / config.sweep / "ran.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as diary:
        diary.write(f"{line}\n")


def _behaviour(config: Config) -> dict[str, Any]:
    path = Path(config.multirun) / "fake.json"
    return json.loads(path.read_text()) if path.exists() else {}
