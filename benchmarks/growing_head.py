"""Split MNIST with a head that grows against the full head: sequential and combined, paired by seed.

    python -m benchmarks.growing_head                     3 seeds of 2,000 updates a part: 8 min of processor time
    python -m benchmarks.growing_head seeds=2 updates=500

The protocol is that of study=split_mnist_class. `combined` has all classes from the start, so both heads share its stage.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import harness
from src.comparison.pairing import load_records

METRICS = ("average_accuracy", "learning_accuracy")


def main() -> int:
    given = harness.flags({"seeds": "3", "updates": "2000"}, __doc__ or "")
    words = ["study=split_mnist_class", f"seeds={given['seeds']}", f"stopping.updates_per_part={given['updates']}"]
    with tempfile.TemporaryDirectory() as name:
        multirun = Path(name)
        found = {}
        for head in ("full", "grow"):
            one = [f"head={head}", f"sweep={head}", f"multirun={multirun}", "tracking=off"]
            harness.command(["src.sweep", *words, *one])
            found[head] = {(run.regime, run.seed): run for run in load_records(multirun / head).runs}
        rows, largest = [], 0.0
        for regime in dict.fromkeys(regime for regime, _ in found["full"]):
            for metric in METRICS:
                pairs = [
                    [100 * (found[head][key].metric(metric) or 0) for head in ("full", "grow")]
                    for key in found["full"]
                    if key[0] == regime
                ]
                means = [statistics.fmean(side) for side in zip(*pairs, strict=True)]
                largest = max(largest, abs(means[1] - means[0]) if metric == METRICS[0] else 0.0)
                differences = harness.spread([grow - full for full, grow in pairs], 2)
                rows.append([f"{regime}, {metric}", *(f"{mean:.2f}" for mean in means), differences])
    title = f"split MNIST, %, {given['seeds']} seeds, {given['updates']} updates a part"
    harness.show(title, ["", "full", "grow", "grow - full: median [least, most]"], rows)
    print(f"largest difference of a mean average accuracy: {largest:.2f} points (at most 0.3 is wanted)")
    return int(largest > 0.3)


if __name__ == "__main__":
    sys.exit(main())
