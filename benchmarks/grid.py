"""A whole grid against the plain baseline: time with start-up, reuse, bookkeeping, memory, and the repeated command.

    python -m benchmarks.grid [repeats=1] [many=0] [per_stratum=3] [n_workers=auto] [ratios= imbalances= epochs= seeds= size=]

400 runs: digits, MLP 64-64-10, 600 samples, five ratios, two imbalances, two lengths, four regimes, five seeds. The plain
baseline (`benchmarks.plain`) is measured on a sample, `per_stratum` runs of each length and regime, and scaled to all runs;
its start-up counts once. `many`: the number of seeds of a second, larger grid (50: 4,000 runs), also compared with the baseline.
About 1 minute with the defaults; repeats=3 many=50 takes 8.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.harness import GRID_FLAGS, Cost, Grid, command, flags, grid_of, show, spread, sweep

PLAIN_FLAGS = {"per_stratum": "3", **GRID_FLAGS}
FLAGS = {"repeats": "1", "many": "0", "n_workers": "auto", **PLAIN_FLAGS}
CLOCKED = "hydra.sweeper.engine=benchmarks.clocked"


@dataclass(frozen=True)
class PlainTime:
    """Time of the plain baseline: start-up, and seconds per run by (epochs, regime), measured on `n_sampled` runs."""

    start_up: float
    per_run: dict[str, float]
    n_sampled: int

    def whole(self, grid: Grid) -> float:
        """Seconds for all runs of the grid; all strata have equally many runs."""
        return self.start_up + grid.n_runs * statistics.mean(self.per_run.values())


def plain(given: dict[str, str]) -> PlainTime:
    """Run the plain baseline over its sample, in one process."""
    words = [f"{key}={given[key]}" for key in PLAIN_FLAGS]
    cost = command(["benchmarks.plain", *words])
    output = json.loads(cost.output.splitlines()[-1])
    per_run = {stratum: statistics.mean(seconds) for stratum, seconds in output["seconds"].items()}
    measured = sum(sum(seconds) for seconds in output["seconds"].values())
    start_up = (
        cost.wall_s - output["composing"] - measured - next(iter(per_run.values()))
    )  # a warm run of the first kind
    return PlainTime(start_up, per_run, sum(map(len, output["seconds"].values())))


def reuse(sweep_dir: Path) -> tuple[int, int]:
    """Samples that the runs require, and samples that were trained."""
    asked = trained = 0
    for path in sweep_dir.glob("cells/*/*/result.json"):
        body = json.loads(path.read_text())
        asked += body["result"]["cost"]["samples"]
        trained += body["result"]["cost"]["samples"] - body["provenance"]["reused_samples"]
    return asked, trained


def main() -> None:
    """Print two tables: times and ratios, and the breakdown of one grid's time."""
    given = flags(FLAGS, __doc__ or "")
    from benchmarks import clocked  # lazy, because it loads torch, which the usage does not need

    grid = grid_of(given)
    many = replace(grid, seeds=int(given["many"])) if int(given["many"]) else None
    common = [f"n_workers={given['n_workers']}"]
    ours: list[Cost] = []
    again: list[Cost] = []
    lots: list[Cost] = []
    theirs: list[PlainTime] = []
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(int(given["repeats"])):  # alternating, so that load on the machine affects all alike
            multirun = Path(scratch) / f"multirun-{repeat}"
            ours.append(sweep(multirun, [*grid.overrides(), *common]))
            again.append(sweep(multirun, [*grid.overrides(), *common]))
            theirs.append(plain(given))
            if many:
                lots.append(sweep(Path(scratch) / f"many-{repeat}", [*many.overrides(), *common]))
        clocks = Path(scratch) / "clocks"
        whole = sweep(clocks, [*grid.overrides(), *common, CLOCKED])
        clock = clocked.read(clocks / "bench")
        asked, trained = reuse(clocks / "bench")
    walls = [cost.wall_s for cost in ours]
    scaled = [time.whole(grid) for time in theirs]
    sampled = f"{theirs[0].n_sampled} runs measured, scaled to {grid.n_runs:,}"
    rows = [
        [f"plain baseline, s ({sampled})", spread(scaled), ""],
        ["its start-up, s", spread([time.start_up for time in theirs]), ""],
        [f"laboratory, {grid.n_runs:,} runs, whole command, s", spread(walls), "x"],
        ["its processor time, s", spread([cost.cpu_s for cost in ours]), ""],
        ["the same command again, nothing missing, s", spread([cost.wall_s for cost in again]), ""],
    ]
    rows[2][2] = spread([plain_s / our_s for plain_s, our_s in zip(scaled, walls, strict=True)])
    if many:
        against = [time.whole(many) / cost.wall_s for time, cost in zip(theirs, lots, strict=True)]
        rows.append([f"laboratory, {many.n_runs:,} runs, s", spread([cost.wall_s for cost in lots]), spread(against)])
    rows.append(["samples trained / samples required", f"{trained / asked:.3f}", ""])
    rows.append(["peak memory of a worker, MiB", f"{clock.peak_mib:,.0f}", ""])
    show("grid: medians [min, max]", ("measurement", "value", "plain / laboratory"), rows)
    parts = {
        "training": clock.train,
        "scoring on held-out sets": clock.score,
        "data and plan": clock.data,
        "results: folders and store": clock.results,
        "claiming cells": clock.claiming,
        "final delivery to MLflow": clock.tracking,
        "table and maps at the end": clock.report,
    }
    books = clock.results + clock.claiming + clock.tracking
    parts["start-up and planning (the rest)"] = whole.wall_s - sum(parts.values())
    shares = [[name, f"{seconds:.2f}", f"{seconds / whole.wall_s:.0%}"] for name, seconds in parts.items()]
    shares.append(["bookkeeping that training waits for", f"{books:.2f}", f"{books / whole.wall_s:.0%}"])
    show(
        f"breakdown of {whole.wall_s:.1f} s: one worker (mean), then the parent",
        ("part", "s", "share of wall"),
        shares,
    )


if __name__ == "__main__":
    main()
