"""What each way to save time is worth: a grid with everything, with each switched off, and with all off.

    python -m benchmarks.ablation [repeats=1] [n_workers=auto] [ratios= imbalances= epochs= seeds= size=]

The whole command with start-up, until MLflow holds everything: where the command does not wait for that, `make sync` finishes,
and its time counts. About 4 minutes with the defaults; the grid of
docs/PERFORMANCE.md: ratios=0.1,0.3,1,3,10 imbalances=1,3 seeds=5 (20 minutes).
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.harness import GRID_FLAGS, command, flags, grid_of, show, spread, sweep

FLAGS = {"repeats": "1", "n_workers": "auto", **GRID_FLAGS, "ratios": "0.3,3", "seeds": "3"}
OFF = {
    "everything on": [],
    "without the stage tree": ["trainer.reuse=false"],
    "without replicas": ["trainer.replicas=1"],
    "data streamed, not resident": ["trainer.resident_mib=0"],
}


def whole(multirun: Path, overrides: list[str]) -> tuple[float, float]:
    """Wall and processor seconds until the results are there and MLflow knows them."""
    cost = sweep(multirun, overrides)
    if not any((multirun / "bench" / "outbox").glob("*.json")):
        return cost.wall_s, cost.cpu_s
    rest = command(["src.sync", f"multirun={multirun}"])
    return cost.wall_s + rest.wall_s, cost.cpu_s + rest.cpu_s


def main() -> None:
    """Prints one table."""
    given = flags(FLAGS, __doc__ or "")
    grid = grid_of(given)
    ways = {**OFF, "all of them off": [word for words in OFF.values() for word in words]}
    walls: dict[str, list[float]] = {way: [] for way in ways}
    cpus: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(int(given["repeats"])):
            for number, (way, switched) in enumerate(ways.items()):
                multirun = Path(scratch) / f"{repeat}-{number}"
                wall, cpu = whole(multirun, [*grid.overrides(), f"n_workers={given['n_workers']}", *switched])
                walls[way].append(wall)
                cpus[way].append(cpu)
    on = statistics.median(walls["everything on"])
    show(
        f"ablation: {grid.n_runs} runs in {grid.n_cells} cells, medians [min, max]",
        ("way", "wall, s", "processor, s", "against everything on"),
        [[way, spread(walls[way]), spread(cpus[way]), f"{statistics.median(walls[way]) / on:.2f}"] for way in ways],
    )


if __name__ == "__main__":
    main()
