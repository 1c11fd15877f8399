"""The default engine with timers: python -m src.sweep ... hydra.sweeper.engine=benchmarks.clocked

Every process appends to ``<sweep>/clock/<pid>.jsonl``: one line per cell (start and end, seconds of training, of scoring, of
data and plan, the process's peak memory), and one for the parent's last step. `read` sums them up.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from src.cells import run, write
from src.cells.outcome import CellOutcome
from src.cells.resolve import ResolvedCell, resolve
from src.cells.run import free_device, help_cell, load, score
from src.cells.write import record_failure
from src.config import Config
from src.data.split import StreamFactory
from src.sweep import summary
from src.training.control import NO_CONTROL, RunControl

__all__ = ["free_device", "help_cell", "load", "record_failure", "resolve", "run_cell", "score", "session"]


def run_cell(cell: ResolvedCell, control: RunControl = NO_CONTROL) -> CellOutcome:
    """`src.cells.run.run_cell` with timers."""
    load()  # takes seconds, which count as start-up
    start = time.time()
    with _clocks() as seconds:
        outcome = run.run_cell(cell, control)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    _note(cell.config, {"cell": True, "start": start, "end": time.time(), "peak_mib": peak, **seconds})
    return outcome


@contextmanager
def session(cells: Sequence[ResolvedCell]) -> Iterator[summary.Session]:
    """`src.sweep.summary.session` with timers on its end: the report and the final delivery to MLflow."""
    from src.tracking.outbox import Deliverer

    seconds: Counter[str] = Counter()
    with (
        patch.object(Deliverer, "stop", _timed(Deliverer.stop, "tracking", seconds)),
        summary.session(cells) as opened,
        patch.object(opened, "finish", _timed(opened.finish, "report", seconds)),
    ):
        yield opened
    _note(cells[0].config, {"parent": True, **seconds})


@contextmanager
def _clocks() -> Iterator[Counter[str]]:
    """Seconds spent in the parts of a cell, by name; `train` includes `store`."""
    from src.training import execute
    from src.training.store.store import Store

    seconds: Counter[str] = Counter()
    parts: list[tuple[Any, str, str]] = [
        (execute, "execute", "train"),
        (run, "make_plan", "data"),
        (StreamFactory, "build", "data"),
        (write, "score_all", "score"),
        (Store, "get", "store"),
        (Store, "put", "store"),
    ]
    with ExitStack() as stack:
        for owner, name, part in parts:
            stack.enter_context(patch.object(owner, name, _timed(getattr(owner, name), part, seconds)))
        yield seconds


def _timed(function: Callable[..., Any], part: str, seconds: Counter[str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[part] += time.perf_counter() - start  # type: ignore[assignment] # a Counter of seconds

    return timed


def _note(config: Config, body: dict[str, Any]) -> None:
    folder = Path(config.multirun) / config.sweep / "clock"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(body) + "\n")


@dataclass(frozen=True)
class Clock:
    """Times of a sweep in seconds, per worker (mean) and of the parent, and the peak memory of a worker."""

    train: float
    score: float
    data: float
    results: float
    """Result folders, the stage store, and all of a cell that the other parts do not cover."""
    claiming: float
    """From the end of a cell to the start of the worker's next one."""
    tracking: float
    """The parent's final delivery to MLflow, for which the command waits."""
    report: float
    """The rest of the parent's last step: reading the results, the table, the maps."""
    peak_mib: float


def read(sweep_dir: Path) -> Clock:
    """Read the times of a finished sweep."""
    workers, peaks = [], []
    parent: dict[str, float] = {}
    for path in (sweep_dir / "clock").glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        cells = [line for line in lines if "cell" in line]
        parent = next((line for line in lines if "parent" in line), parent)
        if cells:
            parts = {name: sum(line.get(name, 0.0) for line in cells) for name in ("train", "score", "data", "store")}
            inside = sum(line["end"] - line["start"] for line in cells)
            parts["claiming"] = cells[-1]["end"] - cells[0]["start"] - inside
            parts["results"] = inside - parts["train"] - parts["score"] - parts["data"] + parts["store"]
            workers.append(parts)
            peaks.append(max(line["peak_mib"] for line in cells))
    mean = {name: statistics.mean(parts[name] for parts in workers) for name in workers[0]}
    return Clock(
        train=mean["train"] - mean["store"],
        score=mean["score"],
        data=mean["data"],
        results=mean["results"],
        claiming=mean["claiming"],
        tracking=parent["tracking"],
        report=parent["report"],
        peak_mib=max(peaks),
    )
