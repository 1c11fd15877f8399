"""Made-up run folders of the form that training writes, for the tests of tracking and for viewing the MLflow UI."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from pyarrow import parquet

from src.tracking.outbox import Outbox
from src.tracking.record import run_name
from src.tracking.reports import CellReport, SweepComparison, SweepReport, write_cell, write_sweep

MORNING = datetime(2025, 3, 1, 9, 0, tzinfo=UTC)


def enqueue(outbox: Outbox, folder: Path) -> Path:
    """Enqueues a folder whose files exist; returns the entry."""
    with outbox.transaction(folder):
        pass
    return outbox.entries()[-1]


def axes_of(ratio: float = 0.1, imbalance: float = 5.0, epochs: int = 20) -> dict[str, Any]:
    return {
        "ratio": ratio,
        "imbalance": imbalance,
        "shift": "none",
        "epochs": epochs,
        "arch": "mlp",
        "data": "digits",
    }


def config_of(axes: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": {"name": "digits", "root": "data"},
        "arch": {"name": "mlp", "widths": [64], "depth": None},
        "split": {"size": 400, "ratio": axes["ratio"], "imbalance": axes["imbalance"], "shift": {"kind": "none"}},
        "stopping": {"name": "epochs", "epochs": axes["epochs"]},
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "batch_size": 32},
        "storage": "postgresql://ann:s3cret@db/optuna",
        "regimes": ["sequential", "combined"],
        "seeds": 3,
    }


def run_folder(
    sweep_dir: Path,
    *,
    cell: str = "c0ffee",
    regime: str = "sequential",
    seed: int = 0,
    axes: dict[str, Any] | None = None,
    status: str = "finished",
    n_points: int = 20,
    minute: int = 0,
    accuracy: float = 0.9,
) -> Path:
    """A folder with result.json (or failed.json), history.parquet and config.yaml; 60 s of work after `minute`."""
    axes = axes or axes_of()
    folder = sweep_dir / "cells" / cell / f"{regime}-{seed}"
    folder.mkdir(parents=True)
    name, _, knobs = regime.partition("(")
    head = {
        "schema": 1,
        "sweep": sweep_dir.name,
        "cell": cell,
        "run": f"{cell}{regime}{seed}",
        "regime": regime,
        "regime_name": name,
        "knobs": dict([knobs.rstrip(")").split("=")]) if knobs else {},
        "seed": seed,
        "axes": axes,
    }
    provenance = {
        "seconds": 60.0,
        "reused_samples": 0,
        "group": 3,
        "engine": "loop",
        "host": "lab",
        "fingerprint": "f",
        "git_commit": "0123abc",
        "versions": {"torch": "2.15.0"},
        "finished_at": (MORNING + timedelta(minutes=minute + 1)).isoformat(),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config_of(axes)))
    if status == "failed":
        error = {
            "error": "OSError: no space on postgresql://ann:s3cret@db",
            "traceback": "Traceback ...",
            "attempts": 2,
        }
        (folder / "failed.json").write_text(json.dumps({**head, **error, "provenance": provenance}))
        return folder

    n_updates = 2 * max(n_points, 2)
    half = n_updates // 2
    rows = []
    for point in range(n_points):
        step = (point + 1) * n_updates // max(n_points, 1)
        stage = int(step > half)
        loss = math.nan if status == "diverged" and stage else 2.3 * math.exp(-2 * step / n_updates)
        rows.append((step, stage, "train/loss", loss))
        rows += [(step, stage, f"val/{on}/accuracy", accuracy * step / n_updates) for on in ("d1", "d2", "union")]
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    names = ("step", "stage", "name", "value")
    types = (pa.int64(), pa.int64(), pa.string(), pa.float64())
    table = pa.table({key: pa.array(column, kind) for key, column, kind in zip(names, columns, types, strict=True)})
    parquet.write_table(table, folder / "history.parquet")

    value = None if status == "diverged" else accuracy
    metrics = {f"test/{on}/{what}": value for on in ("d1", "d2", "union") for what in ("accuracy", "loss", "ece")}
    metrics |= {f"test/union/recall/{digit}": value for digit in range(10)}
    metrics |= {"train/accuracy": value, "train/loss": value, "forgetting": None, "learning_accuracy": value}
    stage = {"parts": [0], "updates": half, "samples": 32 * half, "epochs": 20, "stopped_by": "epochs"}
    result = {
        "metrics": metrics,
        "accuracy_matrix": [[0.9, 0.4], [0.7, 0.9]],
        "stages": [{**stage, "converged": None, "best_epoch": None}, {**stage, "parts": [1], "converged": None}],
        "cost": {"updates": n_updates, "samples": 32 * n_updates, "flops": 1e9},
        "weights": "w" * 8,
        "stream": f"{cell}-{seed}",
        "imbalance": axes["imbalance"],
        "class_counts": [[20, 10], [1, 2]],
    }
    body = {**head, "status": status, "result": result, "provenance": provenance}
    (folder / "result.json").write_text(json.dumps(body))
    return folder


def cell_report(sweep_dir: Path, *, cell: str = "c0ffee", axes: dict[str, Any] | None = None, n: int = 3) -> Path:
    difference = {"": -0.02, "/ci_low": -0.03, "/ci_high": -0.01, "/p": 0.25}
    report = CellReport(
        sweep=sweep_dir.name,
        cell=cell,
        axes=axes or axes_of(),
        verdict="combined",
        note=f"Combined wins on union by 2.0 points (95 % interval 1.0 to 3.0, p = 0.25, n = {n}).",
        command="python -m src.sweep split.ratio=0.1 split.imbalance=5 stopping.epochs=20",
        metrics={f"delta/sequential-combined/union/accuracy{end}": value for end, value in difference.items()},
        tags={"difference": "-2.0 points [-3.0, -1.0]", "mean/sequential": "88.0 %", "mean/combined": "90.0 %"}
        | {f"difference/{name}": "-2.0 (combined)" for name in ("d1", "d2", "balanced")},
    )
    write_cell(sweep_dir / "cells" / cell, report)
    return sweep_dir / "cells" / cell


def sweep_report(sweep_dir: Path, *, cell: str = "c0ffee", axes: dict[str, Any] | None = None) -> Path:
    (sweep_dir / "table.csv").write_text("ratio,winner\n0.1,combined\n")
    (sweep_dir / "table.md").write_text("| ratio | winner |\n|---|---|\n| 0.1 | combined |\n")
    report = SweepReport(
        sweep=sweep_dir.name,
        note="Combined wins in 1 cell of 1.",
        command="python -m src.sweep -m split.ratio=0.1",
        metrics={"cells": 4, "wins/combined": 1, "delta/sequential-combined/union/accuracy": -0.02},
        artifacts=("table.csv", "table.md"),
        comparison=SweepComparison(
            verdict="combined 1, undecided 3 of 4 cells",
            pairs=[("sequential", "combined")],
            metric="union/accuracy",
            higher_is_better=True,
            axes=["ratio", "imbalance"],
            largest=(cell, run_name(axes or axes_of())),
            elsewhere=["d1", "d2", "balanced"],
        ),
    )
    write_sweep(sweep_dir, report)
    return sweep_dir


def sweep_of(
    multirun: Path, *, name: str = "digits-mlp", ratios: tuple[float, ...] = (0.1, 10.0), n_seeds: int = 3
) -> Path:
    """A finished sweep: ratios x imbalance 1, 5 x sequential, combined x seeds, with reports."""
    sweep_dir = multirun / name
    minute = 0
    for ratio in ratios:
        for imbalance in (1.0, 5.0):
            axes, cell = (
                axes_of(ratio, imbalance, 20 if ratio < 1 else 5),
                f"{int(100 * ratio):04x}{int(imbalance):02x}",
            )
            for seed in range(n_seeds):
                for regime in ("sequential", "combined"):
                    level = 0.85 + 0.02 * seed - (0.05 * imbalance / 5 if regime == "sequential" else 0)
                    run_folder(sweep_dir, cell=cell, regime=regime, seed=seed, axes=axes, minute=minute, accuracy=level)
                    minute += 1
            cell_report(sweep_dir, cell=cell, axes=axes)
    return sweep_report(sweep_dir, cell=cell, axes=axes_of(ratios[0], 1.0))
