"""One cell on one worker and on two, alternately.   python -m benchmarks.one_cell repeats=3

Twelve runs of the small CNN on digits: two regimes, six seeds. Before workers shared a cell, two took as long as one. Checks
that both give the same results, bit for bit.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import flags, spread, sweep

FLAGS = {"repeats": "3", "epochs": "80", "seeds": "6", "arch": "cnn", "workers": "1,2"}


def measured(given: dict[str, str], n_workers: str) -> tuple[float, dict[str, Any]]:
    """The seconds of the whole command, and the `result` of each run, by its folder's name."""
    words = [f"arch={given['arch']}", f"seeds={given['seeds']}", f"stopping.epochs={given['epochs']}", "split.size=600"]
    with tempfile.TemporaryDirectory() as scratch:
        cost = sweep(Path(scratch), [*words, "trainer=cpu", "tracking=off", f"n_workers={n_workers}"])
        paths = Path(scratch).glob("bench/cells/*/*/result.json")
        return cost.wall_s, {path.parent.name: json.loads(path.read_text())["result"] for path in paths}


def main() -> None:
    given = flags(FLAGS, __doc__ or "")
    seconds: dict[str, list[float]] = {n: [] for n in given["workers"].split(",")}
    results: list[dict[str, Any]] = []
    for _ in range(int(given["repeats"])):
        for n, walls in seconds.items():
            wall, result = measured(given, n)
            walls.append(wall)
            results.append(result)
    if any(result != results[0] for result in results):
        raise SystemExit("the results differ")
    for n, walls in seconds.items():
        print(f"n_workers={n}: {len(results[0])} runs, whole command in {spread(walls)} s")


if __name__ == "__main__":
    main()
