"""Writes the files of sweeps without training: results, curves and configurations of cells."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.config import Config, compose
from src.io import digest
from src.sweep.folder import SweepFolder

N_CLASSES = 3


def config(sweep: str, *overrides: str, seeds: int = 10) -> Config:
    """A cell of digits with three classes."""
    few = ["split.classes=[0,1,2]", "split.size=60", "stopping.epochs=2", "tracking=off", f"seeds={seeds}"]
    return compose([*few, f"sweep={sweep}", *overrides])


def write_cell(
    multirun: Path,
    cell: Config,
    effect: float,
    *,
    skip: Callable[[str, int], bool] | None = None,
    with_history: bool = True,
) -> str:
    """Every regime x seed of a cell, sequential being better by `effect` on average; returns the cell's hash."""
    folder = SweepFolder(multirun, cell.sweep)
    name = digest([cell.axes(), getattr(cell.stopping, "match", "")])
    folder.write_cell(name, cell)
    rng = np.random.default_rng(len(name) + round(1000 * abs(effect)))
    for seed in cell.seeds:
        common = rng.normal(0, 0.02)
        for regime in cell.regimes:
            if skip is not None and skip(regime.label, seed):
                continue
            value = 0.8 + common + rng.normal(0, 0.005) + (effect if regime.name == "sequential" else 0.0)
            run = folder.cell(name) / f"{regime.label}-{seed}"
            run.mkdir(parents=True)
            (run / "result.json").write_text(json.dumps(_result(cell, name, regime.label, seed, value)))
            if with_history:
                _history(run / "history.parquet", 2 if regime.name == "sequential" else 1, value)
    return name


def _result(cell: Config, name: str, regime: str, seed: int, value: float) -> dict[str, Any]:
    staged = regime.startswith("sequential")
    metrics: dict[str, float | None] = {}
    for test in ("d1", "d2", "union"):
        metrics |= {f"test/{test}/accuracy": value, f"test/{test}/loss": 1 - value}
    metrics |= {f"test/union/recall/{k}": min(1.0, value + 0.05 * (k - 1)) for k in range(N_CLASSES)}
    metrics["forgetting"] = 0.1 + 0.01 * seed if staged else None
    stage = {"parts": [0], "updates": 10, "samples": 60, "epochs": 2, "stopped_by": "length", "converged": None}
    return {
        "schema": 1,
        "sweep": cell.sweep,
        "cell": name,
        "run": f"{name}-{regime}-{seed}",
        "regime": regime,
        "regime_name": regime,
        "knobs": {},
        "seed": seed,
        "axes": {key: "inf" if isinstance(v, float) and math.isinf(v) else v for key, v in cell.axes().items()},
        "status": "finished",
        "result": {
            "metrics": metrics,
            "stages": [{**stage, "best_epoch": None}] * (2 if staged else 1),
            "cost": {"updates": 20 if staged else 16, "samples": 120, "flops": 1e6},
            "class_counts": [[10] * N_CLASSES, [10] * N_CLASSES],
        },
        "provenance": {
            "seconds": 0.5,
            "reused_samples": 60 if staged else 0,
            "engine": "vmap",
            "device": "cpu",
            "fingerprint": "torch 2.x, here",
            "git_commit": "abc",
            "versions": {"torch": "2.x", "python": "3.x"},
            "stage_keys": ["0" * 16] * (2 if staged else 1),
            "finished_at": "2030-01-02T03:04:05+00:00",
        },
    }


def _history(path: Path, n_stages: int, value: float) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("val/d1/accuracy", "val/d2/accuracy", "val/union/accuracy")
    rows = [
        (10 * stage + step, stage, name, value * step / 10)
        for stage in range(n_stages)
        for step in (5, 10)
        for name in names
    ]
    columns = list(zip(*rows, strict=True))
    pq.write_table(pa.table(dict(zip(("step", "stage", "name", "value"), columns, strict=True))), path)


def write_failed(multirun: Path, cell: Config, name: str, regime: str, seed: int, error: str) -> None:
    """A run that raised."""
    run = SweepFolder(multirun, cell.sweep).cell(name) / f"{regime}-{seed}"
    run.mkdir(parents=True, exist_ok=True)
    body = {"schema": 1, "cell": name, "regime": regime, "seed": seed, "axes": dict(cell.axes()), "error": error}
    (run / "failed.json").write_text(json.dumps(body))


def write_grid(multirun: Path, sweep: str, axes: Sequence[str], effect: float = 0.05) -> list[str]:
    """One cell for each of `axes`, a command line's words; every other cell has the opposite effect."""
    cells = []
    for k, words in enumerate(axes):
        cells.append(write_cell(multirun, config(sweep, *words.split()), effect * (-1) ** k))
    return cells
