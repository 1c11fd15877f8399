"""The effect of each optimisation: a grid with all switches on, with each one off, and with all off.

    python -m benchmarks.ablation [repeats=1] [n_workers=auto] [ratios= imbalances= epochs= seeds= size=]

Measures the whole command with start-up, until MLflow has all results. If entries are left, the time of `make sync` is added.
About 4 minutes with the defaults; the grid of docs/PERFORMANCE.md: ratios=0.1,0.3,1,3,10 imbalances=1,3 seeds=5 (20 minutes).
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.harness import GRID_FLAGS, command, flags, grid_of, show, spread, sweep

FLAGS = {"repeats": "1", "n_workers": "auto", **GRID_FLAGS, "ratios": "0.3,3", "seeds": "3"}
OFF = {
    "all switches on": [],
    "without the stage tree": ["trainer.reuse=false"],
    "without replicas": ["trainer.replicas=1"],
    "data streamed, not resident": ["trainer.resident_mib=0"],
}


def whole(multirun: Path, overrides: list[str]) -> tuple[float, float]:
    """Wall and processor seconds until the results are on disk and in MLflow."""
    cost = sweep(multirun, overrides)
    if not any((multirun / "bench" / "outbox").glob("*.json")):
        return cost.wall_s, cost.cpu_s
    rest = command(["src.sync", f"multirun={multirun}"])
    return cost.wall_s + rest.wall_s, cost.cpu_s + rest.cpu_s


def main() -> None:
    """Print one table."""
    given = flags(FLAGS, __doc__ or "")
    grid = grid_of(given)
    variants = {**OFF, "all switches off": [word for words in OFF.values() for word in words]}
    walls: dict[str, list[float]] = {name: [] for name in variants}
    cpus: dict[str, list[float]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(int(given["repeats"])):
            for number, (name, switched) in enumerate(variants.items()):
                multirun = Path(scratch) / f"{repeat}-{number}"
                wall, cpu = whole(multirun, [*grid.overrides(), f"n_workers={given['n_workers']}", *switched])
                walls[name].append(wall)
                cpus[name].append(cpu)
    on = statistics.median(walls["all switches on"])
    show(
        f"ablation: {grid.n_runs} runs in {grid.n_cells} cells, medians [min, max]",
        ("variant", "wall, s", "processor, s", "relative to all switches on"),
        [
            [name, spread(walls[name]), spread(cpus[name]), f"{statistics.median(walls[name]) / on:.2f}"]
            for name in variants
        ],
    )


if __name__ == "__main__":
    main()
