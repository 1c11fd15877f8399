"""The default engine, which notes when its worker trained first: python -m src.sweep ... hydra.sweeper.engine=benchmarks.first_update

Every worker writes ``<sweep>/first-update/<pid>.json`` after each cell: seconds from the start of its process to the end of its
first chunk of updates (imports, data, the measurement of the group size and the first capture of a graph included), and the
largest memory that it allocated on its GPU.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from src.cells import run
from src.cells.outcome import CellOutcome
from src.cells.resolve import ResolvedCell, resolve
from src.cells.run import free_device, help_cell, load, score
from src.cells.write import record_failure
from src.sweep.summary import session
from src.training.control import NO_CONTROL, RunControl

__all__ = ["free_device", "help_cell", "load", "record_failure", "resolve", "run_cell", "score", "session"]


def run_cell(cell: ResolvedCell, control: RunControl = NO_CONTROL) -> CellOutcome:
    """`src.cells.run.run_cell`, with the time of the first update."""
    import torch

    from src.training.monitor import StageMonitor

    seconds: list[float] = []
    plain = StageMonitor.on_train_batch_end

    def timed(monitor: StageMonitor, *arguments: Any) -> None:
        if not seconds:
            if monitor.device.torch_device.type == "cuda":
                torch.cuda.synchronize(monitor.device.torch_device)
            seconds.append(time.time() - psutil.Process().create_time())
        plain(monitor, *arguments)

    with patch.object(StageMonitor, "on_train_batch_end", timed):
        outcome = run.run_cell(cell, control)
    folder = Path(cell.config.multirun) / cell.config.sweep / "first-update"
    folder.mkdir(parents=True, exist_ok=True)
    peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else 0.0
    (folder / f"{os.getpid()}.json").write_text(json.dumps({"seconds": seconds[0], "peak_mib": peak}))
    return outcome


def read(sweep_dir: Path) -> dict[str, float]:
    """The slowest start and the largest memory among the workers of a sweep."""
    notes = [json.loads(path.read_text()) for path in (sweep_dir / "first-update").glob("*.json")]
    return {key: max(note[key] for note in notes) for key in ("seconds", "peak_mib")}
