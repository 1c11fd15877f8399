"""Scaling of time with the number of cells, regimes that share stage 1, workers, and models in a group.

    python -m benchmarks.scaling [parts=cells,regimes,workers,replicas] [repeats=1] [cells=20,100] [regimes=1,3,9]
                                 [workers=1,2] [replicas=1,4,16,64,256] [seeds=5] [epochs=20]

`cells`: whole commands over cells of two regimes and one seed, one epoch each: the cost of a cell without training.
`regimes`: one cell in this process, with the first regime alone and then with more regimes that share its stage 1; the extra
time is compared with the training time of their own stages. `workers`: the grid of `benchmarks.grid` with 3 seeds.
`replicas`: microseconds per step of MLP 64-64-10, a complete fit, measured as in `benchmarks.step`. About 3 minutes with the
defaults; docs/PERFORMANCE.md has cells=100,400,1600 regimes=1,2,3,4,5,6,7,8,9 replicas=1,2,4,8,16,32,64,128,256 repeats=3.
"""

from __future__ import annotations

import functools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks.harness import Grid, flags, show, spread, sweep

if TYPE_CHECKING:
    from src.training.plan import Node

FLAGS = {
    "parts": "cells,regimes,workers,replicas",
    "repeats": "1",
    "cells": "20,100",
    "regimes": "1,3,9",
    "workers": "1,2",
    "replicas": "1,4,16,64,256",
    "seeds": "5",
    "epochs": "20",
}
SHARING = (
    "sequential",
    "replay",
    "freeze",
    "ewc",
    "lwf",
    "l2_sp",
    "shrink_perturb",
    "{sequential:{lr_factor:0.1}}",
    "{replay:{share:0.2}}",
)
"""Nine regimes whose first stage is the same."""


def cells(given: dict[str, str], scratch: Path) -> None:
    """Time of whole commands against the number of cells."""
    rows = []
    for n in map(int, given["cells"].split(",")):
        rates = ",".join(f"{0.01 + 0.0001 * k:g}" for k in range(n))
        walls = []
        for repeat in range(int(given["repeats"])):
            words = ["split.size=100", "seeds=1", "stopping.epochs=1", f"optimizer.lr={rates}"]
            walls.append(sweep(scratch / f"cells-{n}-{repeat}", words).wall_s)
        rows.append([f"{n:,}", spread(walls), f"{1000 * statistics.median(walls) / n:.0f}"])
    show("cells of 2 runs of one epoch, whole command", ("cells", "s", "ms per cell"), rows)


def regimes(given: dict[str, str], scratch: Path) -> None:
    """Time of one cell against the number of regimes that share stage 1, and the extra cost of the additional ones."""
    from src.cells.resolve import resolve
    from src.cells.run import run_cell
    from src.config import compose
    from src.training import execute

    def trained(n: int, place: Path) -> tuple[float, float]:
        """Seconds of the whole cell, and of training all stages but the first regime's, penalties included."""
        words = [f"regimes=[{','.join(SHARING[:n])}]", f"seeds={given['seeds']}", f"stopping.epochs={given['epochs']}"]
        config = compose([*words, "split.size=600", "trainer=cpu", "tracking=off", f"multirun={place}"])
        fits: list[tuple[list[str], float]] = []
        train = execute._Executor._fit

        def clocked(walk: Any, group: Sequence[Node], *rest: Any) -> Any:
            start = time.perf_counter()
            results = train(walk, group, *rest)
            fits.append(([node.key for node in group], time.perf_counter() - start))
            return results

        start = time.perf_counter()
        with patch.object(execute._Executor, "_fit", clocked):
            outcome = run_cell(resolve(config))
        wall = time.perf_counter() - start
        bodies = [json.loads((folder / "result.json").read_text()) for folder in outcome.folders]
        first = {k for body in bodies if body["regime"] == "sequential" for k in body["provenance"]["stage_keys"]}
        own = sum(seconds * len(set(keys) - first) / len(keys) for keys, seconds in fits)
        return wall, own

    trained(len(SHARING), scratch / "warm")
    counts = [int(n) for n in given["regimes"].split(",")]
    walls: dict[int, list[float]] = {n: [] for n in counts}
    owns: dict[int, list[float]] = {n: [] for n in counts}
    for repeat in range(int(given["repeats"])):
        for n in counts:
            wall, own = trained(n, scratch / f"regimes-{repeat}-{n}")
            walls[n].append(wall)
            owns[n].append(own)
    rows = []
    for n in counts:
        ratio = ""
        if n > 1 and 1 in counts:
            extra = zip(walls[n], walls[1], owns[n], strict=True)
            ratio = spread([(wall - alone) / own for wall, alone, own in extra], 2)
        rows.append([str(n), spread(walls[n], 2), spread(owns[n], 2), ratio])
    title = f"regimes that share stage 1: one cell, {given['seeds']} seeds, {given['epochs']} epochs, one process"
    show(title, ("regimes", "s", "training of the additional regimes, s", "extra time / that training"), rows)


def workers(given: dict[str, str], scratch: Path) -> None:
    """Time of a grid against the number of workers."""
    grid = Grid(seeds=3)
    rows = []
    for n in given["workers"].split(","):
        words = [*grid.overrides(), f"n_workers={n}"]
        walls = [sweep(scratch / f"workers-{n}-{repeat}", words).wall_s for repeat in range(int(given["repeats"]))]
        rows.append([n, spread(walls)])
    show(f"workers: {grid.n_runs} runs in {grid.n_cells} cells, whole command", ("workers", "s"), rows)


def replicas(given: dict[str, str]) -> None:
    """Microseconds per step against the number of models in a group."""
    from benchmarks.step import laboratory, slope
    from src.config import compose
    from src.training.devices import device_of

    config = compose(["tracking=off", "trainer=cpu", "trainer.curve_points=1", "split.size=640"])
    place = device_of(config.trainer)
    rows = []
    for n in map(int, given["replicas"].split(",")):
        seconds_of = functools.partial(laboratory, config, place=place, n_models=n)
        values = [slope(seconds_of, (2, 12), 10) for _ in range(int(given["repeats"]) + 1)][1:]  # the first warms up
        rows.append([str(n), spread(values, 0), f"{statistics.median(values) / n:,.0f}"])
    show("models in a group: MLP 64-64-10, batch 64, one thread", ("models", "us per step", "us per model"), rows)


def main() -> None:
    """Print a table for every part."""
    given = flags(FLAGS, __doc__ or "")
    parts = given["parts"].split(",")
    with tempfile.TemporaryDirectory() as scratch:
        for name, part in {"cells": cells, "regimes": regimes, "workers": workers}.items():
            if name in parts:
                part(given, Path(scratch))
        if "replicas" in parts:
            replicas(given)


if __name__ == "__main__":
    main()
