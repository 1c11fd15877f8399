"""An engine that trains nothing: a run is a result.json and a line in ``ran.txt``, so that every run can be counted.

Misbehaviour is asked for in ``multirun/fake.json``: {"seconds": of a run, "raise": epochs of the cells that raise,
"die": epochs of the cells that kill their worker, "die_once": the same, but only the first time, "no_memory": epochs of
the cells whose device has too little memory, "no_memory_once": the same, but only the first time}.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.comparison.objective import Score
from src.config import Config, Objective, cell_hash
from src.regimes.config import RegimeConfig
from src.sweep.search.command import Searched
from src.sweep.search.trials import best_first
from src.training.control import OnProgress


@dataclass(frozen=True)
class Outcome:
    value: float | None
    failures: tuple[str, ...] = ()
    out_of_memory: bool = False


def cell_dir(config: Config) -> Path:
    return Path(config.multirun) / config.sweep / "cells" / cell_hash(config, "fake")


def missing_runs(config: Config) -> list[tuple[RegimeConfig, int]]:
    cell = cell_dir(config)
    wanted = [(regime, seed) for regime in config.regimes for seed in config.seeds]
    return [(regime, seed) for regime, seed in wanted if not (cell / f"{regime.label}-{seed}/result.json").exists()]


def run_cell(
    config: Config,
    *,
    on_run: Callable[[Path], None] | None = None,
    on_stage: Callable[[], None] | None = None,
    on_progress: OnProgress | None = None,
) -> Outcome:
    del on_stage, on_progress  # its cells have no stages
    behaviour = _behaviour(config)
    cell, epochs = cell_dir(config), config.axes()["epochs"]
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
        return Outcome(None, ("sequential-0: OutOfMemoryError: planted",), out_of_memory=True)
    for regime, seed in missing_runs(config):
        time.sleep(behaviour.get("seconds", 0.0))
        folder = cell / f"{regime.label}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".result.{os.getpid()}"
        temporary.write_text(json.dumps({"provenance": {"seconds": 2.0}}))
        temporary.replace(folder / "result.json")
        note(config, f"run {cell.name}/{folder.name}")
        if on_run is not None:
            on_run(folder)
    note(config, f"left {cell.name}")
    return Outcome(0.5)


def free_device() -> None:
    """It keeps nothing on a device."""


def record_failure(config: Config, reason: str) -> None:
    (cell_dir(config) / "failed.txt").write_text(reason)


class Session:
    """Says nothing; notes in the diary that it was asked to."""

    def __init__(self, cells: Mapping[str, Config]) -> None:
        self._cells = cells
        self._config = next(iter(cells.values()))

    def __enter__(self) -> Session:
        note(self._config, f"start {len(self._cells)}")
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def verdict(self, cell: str) -> str | None:
        return "combined" if not missing_runs(self._cells[cell]) else None

    def finish(self) -> None:
        note(self._config, f"finish {len(self._cells)}")

    def finish_search(self, cells: Mapping[str, Config], searched: Searched) -> None:
        best = best_first(searched.trials, searched.search)
        note(self._config, f"finish {len(cells)} {best[0].values[0] if best else None}")


def session(cells: Mapping[str, Config]) -> Session:
    return Session(cells)


def score(config: Config, objective: Objective) -> Score:
    """Best at lr 0.1, where both regimes are equal; diverges above 0.9."""
    lr = config.optimizer.lr
    if lr > 0.9:
        return Score(None, "diverged, says the fake", diverged=True)
    if missing_runs(config):
        return Score(None, "runs are missing")
    return Score({label: 1 - abs(lr - 0.1) * (1 + index) for index, label in enumerate(objective.of)})


def note(config: Config, line: str) -> None:
    """One line in the sweep's diary; appended whole, also by several processes at once."""
    path = Path(config.multirun) / config.sweep / "ran.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as diary:
        diary.write(f"{line}\n")


def _behaviour(config: Config) -> dict[str, Any]:
    path = Path(config.multirun) / "fake.json"
    return json.loads(path.read_text()) if path.exists() else {}
