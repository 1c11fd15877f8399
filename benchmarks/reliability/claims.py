"""Runs a sweep of near-empty cells: checks that each is claimed exactly once, and measures the cost of a claim.

Command and workers are real; a cell is one tiny result file. The time of a worker between two cells (end one, claim the
next, read its configuration) is the overhead.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

from benchmarks.reliability.sweeps import Sweep
from tests import postgres

ENGINE = "hydra.sweeper.engine=benchmarks.reliability.empty_engine"


def campaign(root: Path, n_cells: int, n_workers: int, storage: str) -> tuple[list[str], list[str]]:
    """Measurements and problems of a sweep of `n_cells`; `storage` is journal, sqlite or postgresql."""
    local = nullcontext(f"sqlite:///{root}/study.db" if storage == "sqlite" else None)
    with postgres.running() if storage == "postgresql" else local as url:
        epochs = ",".join(map(str, range(1, n_cells + 1)))
        words = [ENGINE, f"stopping.epochs={epochs}", "regimes=[combined]", "seeds=1", f"n_workers={n_workers}"]
        sweep = Sweep(root / "multirun", [*words, *([f"storage='{url}'"] if url else [])])
        began = time.monotonic()
        if sweep.run() != 0:
            raise RuntimeError(sweep.output_text())
        seconds = time.monotonic() - began
    claimed, overheads, rate = _diary(sweep.folder / "ran.txt")
    n_twice = sum(count - 1 for count in claimed.values())
    n_lost = n_cells - len(claimed)
    problems = [f"{n_twice} cells claimed twice"] * bool(n_twice) + [f"{n_lost} cells lost"] * bool(n_lost)
    p95 = statistics.quantiles(overheads, n=20)[-1]
    return [
        f"{storage}: {n_cells} cells, {n_workers} workers: {n_twice} claimed twice, {n_lost} lost",
        f"between two cells of a worker: median {1e3 * statistics.median(overheads):.1f} ms, "
        f"mean {1e3 * statistics.mean(overheads):.1f} ms, 95 % below {1e3 * p95:.1f} ms",
        f"{rate:.0f} cells a second by all workers, {1e3 / rate:.1f} ms a cell; the whole command {seconds:.0f} s",
        *problems,
    ], problems


def _diary(path: Path) -> tuple[Counter[str], list[float], float]:
    """How often each cell was run, the seconds between two cells of a worker, and cells per second of all."""
    claimed: Counter[str] = Counter()
    spans: dict[str, list[tuple[float, float]]] = {}
    for line in path.read_text().splitlines():
        kind, *words = line.split()
        if kind == "cell":
            claimed[words[0]] += 1
        elif kind == "took":
            spans.setdefault(words[0], []).append((float(words[1]), float(words[2])))
    overheads = [after[0] - before[1] for of_worker in spans.values() for before, after in pairwise(sorted(of_worker))]
    times = [moment for of_worker in spans.values() for span in of_worker for moment in span]
    return claimed, overheads, len(claimed) / (max(times) - min(times))
