"""search=boundary in the linear lab: the distance of the line that it finds to the exact one, with a quarter of a grid's runs.

    python -m benchmarks.boundary            three searches with other first points and data: 3 x 224 runs, 3 x 25 s of processor time
    python -m benchmarks.boundary --trials 56 --step 2

The grid is that of conf/study/phase_boundary.yaml: 28 cells of 16 seeds and 2 regimes, 896 runs; a search has 224. Its axes are
ratio = n2 / n1 of 200 samples and the distance between the true weights; the search reads validation sets, the exact line is that of
`src.oracles.theory.risks`.
"""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from src.oracles.phase_diagram import PhaseSetting

DIM, N, NOISE = 20, 200, 1.0
LOW, HIGH = 0.5, 4.0
RATIO, SHIFT = "split.ratio", "data.target_shift"
GRID_RUNS = 7 * 4 * 16 * 2


def search(folder: Path, number: int, trials: int, step: int) -> Path:
    """Runs a search; returns its boundary.csv."""
    first = 1000 * number
    words = [
        "study=linear_lab",
        "search=boundary",
        f"search.n_trials={trials}",
        f"search.step={step}",
        f"search.seed={number}",
        f"seeds=[{','.join(map(str, range(first, first + 16)))}]",
        "objective=sequential-combined/val/d2/loss",
        f"data.noise={NOISE}",
        f"data.dim={DIM}",
        "data.n_samples=2000",
        "split.val=0.4",
        "split.test=0.02",
        "split.sizes=null",
        f"split.size={N}",
        f"{RATIO}=tag(log,interval(0.02,1))",
        f"{SHIFT}=tag(log,interval({LOW},{HIGH}))",
        "stopping.tolerance=1e-4",
        "optimizer.momentum=0.9",
        "tracking=off",
        f"multirun={folder}",
        f"sweep=boundary-{number}",
    ]
    subprocess.run([sys.executable, "-m", "src.sweep", "-m", *words], check=True, stdout=subprocess.DEVNULL)
    (path,) = folder.glob(f"boundary-{number}/searches/*/boundary.csv")
    return path


def distances(path: Path) -> list[tuple[float, bool]]:
    """Decades of the distance between the weights from the exact line, and whether the band holds it, at each ratio."""
    found = []
    with path.open() as file:
        for row in csv.DictReader(file):
            n2 = round(N * float(row[RATIO]) / (1 + float(row[RATIO])))
            exact = math.sqrt(PhaseSetting(dim=DIM, n1=N - n2, noise=NOISE).critical(n2))
            if LOW < exact < HIGH:  # not within 1 of d, where a risk is infinite
                is_held = float(row["band_low"]) <= exact <= float(row["band_high"])
                found.append((abs(math.log10(float(row[SHIFT]) / exact)), is_held))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=28)
    parser.add_argument("--step", type=int, default=4)
    parser.add_argument("--searches", type=int, default=3)
    options = parser.parse_args()
    n_runs = 2 * options.trials * options.step
    print(f"{n_runs} runs of the {GRID_RUNS} of the grid ({n_runs / GRID_RUNS:.0%})")
    print("| search | mean distance, decades of the shift | of its square | largest | band holds the line |")
    print("| --- | ---: | ---: | ---: | ---: |")
    means = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.searches):
            found = distances(search(Path(folder), number, options.trials, options.step))
            far = np.array([distance for distance, _ in found])
            means.append(far.mean())
            held = np.mean([is_held for _, is_held in found])
            print(f"| {number} | {far.mean():.3f} | {2 * far.mean():.3f} | {far.max():.3f} | {held:.0%} |", flush=True)
    print(f"| mean | {np.mean(means):.3f} | {2 * np.mean(means):.3f} | | |")


if __name__ == "__main__":
    main()
