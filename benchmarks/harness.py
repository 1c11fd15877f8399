"""What the benchmarks share: the grid they measure, whole commands with their cost, and tables of medians with their spread."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).resolve().parent.parent


GRID_FLAGS = {"ratios": "0.1,0.3,1,3,10", "imbalances": "1,3", "epochs": "5,20", "seeds": "5", "size": "600"}
"""The flags of `grid_of`, with the grid of docs/PERFORMANCE.md."""


@dataclass(frozen=True)
class Grid:
    """Cells and runs that a benchmark trains: digits, MLP 64-64-10, batch 64."""

    ratios: tuple[float, ...] = (0.1, 0.3, 1, 3, 10)
    imbalances: tuple[float, ...] = (1, 3)
    epochs: tuple[int, ...] = (5, 20)
    regimes: tuple[str, ...] = ("sequential", "combined", "replay", "freeze")
    seeds: int = 5
    size: int = 600

    @property
    def n_cells(self) -> int:
        return len(self.ratios) * len(self.imbalances) * len(self.epochs)

    @property
    def n_runs(self) -> int:
        return self.n_cells * len(self.regimes) * self.seeds

    def overrides(self) -> list[str]:
        """The grid as axes of `src.sweep -m`."""
        return [
            f"split.size={self.size}",
            f"split.ratio={_listed(self.ratios)}",
            f"split.imbalance={_listed(self.imbalances)}",
            f"stopping.epochs={_listed(self.epochs)}",
            f"regimes=[{_listed(self.regimes)}]",
            f"seeds={self.seeds}",
        ]


@dataclass(frozen=True)
class Cost:
    """Cost of a command: wall seconds, processor seconds of all its processes, and its output."""

    wall_s: float
    cpu_s: float
    output: str


def grid_of(given: Mapping[str, str]) -> Grid:
    """The grid that the values of `GRID_FLAGS` describe."""
    return Grid(
        ratios=tuple(map(float, given["ratios"].split(","))),
        imbalances=tuple(map(float, given["imbalances"].split(","))),
        epochs=tuple(map(int, given["epochs"].split(","))),
        seeds=int(given["seeds"]),
        size=int(given["size"]),
    )


def _listed(values: Sequence[object]) -> str:
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def flags(defaults: Mapping[str, str], usage: str) -> dict[str, str]:
    """``key=value`` arguments over their defaults; any other argument exits with the usage."""
    given = dict(defaults)
    for word in sys.argv[1:]:
        key, equals, value = word.partition("=")
        if not equals or key not in given:
            known = " ".join(f"{name}={default}" for name, default in defaults.items())
            sys.exit(f"{usage.strip()}\n\nflags and their defaults: {known}")
        given[key] = value
    return given


def command(words: Sequence[str]) -> Cost:
    """Run ``python -m words...`` to its end; raise CalledProcessError if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=PROJECT, env=os.environ | {"COLUMNS": "120"}, capture_output=True, text=True
    )
    wall = time.perf_counter() - start
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        done.check_returncode()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu, done.stdout)


def sweep(multirun: Path, overrides: Sequence[str]) -> Cost:
    """Run one ``python -m src.sweep -m`` under `multirun`."""
    return command(["src.sweep", "-m", *overrides, "sweep=bench", f"multirun={multirun}"])


def spread(values: Sequence[float], decimals: int = 1) -> str:
    """Median [smallest, largest]; a single value alone."""
    median = f"{statistics.median(values):,.{decimals}f}"
    if len(values) == 1:
        return median
    return f"{median} [{min(values):,.{decimals}f}, {max(values):,.{decimals}f}]"


def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one table with the first column left-aligned."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
