"""Writes run records as a sweep does, without training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

AXES = {"ratio": 1.0, "imbalance": 1.0, "shift": "none", "epochs": 5, "arch": "mlp", "data": "digits"}


def write_run(
    sweep_dir: Path,
    cell: str,
    regime: str,
    seed: int,
    value: float | None,
    *,
    axes: Mapping[str, object] | None = None,
    status: str = "finished",
    device: str = "cpu",
    converged: bool | None = None,
) -> Path:
    """Writes result.json of one run; every test set has the accuracy `value` and the loss 1 - value."""
    metrics: dict[str, float | None] = {}
    for test in ("d1", "d2", "union"):
        metrics[f"test/{test}/accuracy"] = value
        metrics[f"test/{test}/loss"] = None if value is None else 1 - value
    content: dict[str, Any] = {
        "schema": 1,
        "sweep": sweep_dir.name,
        "cell": cell,
        "run": f"{cell}-{regime}-{seed}",
        "regime": regime,
        "regime_name": regime.split("(")[0],
        "knobs": {},
        "seed": seed,
        "axes": AXES | dict(axes or {}),
        "status": status,
        "result": {"metrics": metrics, "stages": [{"converged": converged}]},
        "provenance": {"device": device, "fingerprint": "x"},
    }
    path = sweep_dir / "cells" / cell / f"{regime}-{seed}" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return path


def write_failure(sweep_dir: Path, cell: str, regime: str, seed: int, error: str) -> Path:
    content = {"schema": 1, "cell": cell, "regime": regime, "seed": seed, "axes": AXES, "error": error}
    path = sweep_dir / "cells" / cell / f"{regime}-{seed}" / "failed.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
