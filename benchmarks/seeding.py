"""seeds=auto: false alarms with a look after every seed, seeds until a decision, and the default grid.

    python -m benchmarks.seeding                        simulated: 10,000 comparisons a row, 48 seeds, 1 min
    python -m benchmarks.seeding --train                1,000 real A/A comparisons, 96,000 tiny trainings: 11 min of processor time
    python -m benchmarks.seeding --grid multirun        the default grid: 48 seeds of every cell in multirun/seeding-48, then the rounds

`--grid` trains what multirun lacks (3 min of processor time) and repeats the rounds of seeds=auto on these results, to say after how
many runs each decision of 12 fixed seeds is made.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.false_alarms import EXCHANGEABLE, SKEWED, Floats, alarm_bound, paired
from src.comparison.betting import log2_wealth
from src.comparison.families import Comparison, Family
from src.comparison.pairing import load_records
from src.comparison.verdicts import judge
from src.config.parse import Seeding
from src.sweep import laboratory
from src.sweep.grid.plan import plan_sweep
from src.sweep.seeding import SeedingWork

CAP, ALPHA, N_CELLS = 48, 0.05, 30
GRID = ["split.ratio=0.1,0.3,1,3,10", "split.imbalance=1,5,20", "stopping.epochs=5,20"]


def decided_after(differences: Floats, alpha: float = ALPHA) -> Floats:
    """Number of seeds after which each comparison [comparisons, seeds] is decided; infinite if it never is."""
    wealth = np.maximum(log2_wealth(differences), log2_wealth(-differences))
    reached = wealth >= np.log2(2 / alpha)
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)


def simulated(n_comparisons: int, rng: np.random.Generator) -> None:
    """Prints the rates of false alarms and the numbers of seeds."""
    shape = (n_comparisons, CAP)
    print(f"| A/A, a look after each of {CAP} seeds | called different | should be |\n| --- | ---: | --- |")
    for name, draw in EXCHANGEABLE.items():
        rate = np.mean(np.isfinite(decided_after(draw(rng, shape))))
        print(f"| {name} | {rate:.1%} | <= {alarm_bound(n_comparisons):.1%} |")
    print(
        f"| skewed differences of mean 0 (no A/A) | {np.mean(np.isfinite(decided_after(SKEWED(rng, shape)))):.1%} | - |"
    )
    print(
        "\n| effect, SD | alone: decided | seeds | one of 30: decided | seeds |\n| ---: | ---: | ---: | ---: | ---: |"
    )
    for effect in (0.0, 0.5, 1.0, 2.0):
        x = rng.normal(effect, 1.0, shape)
        row = [decided_after(x, ALPHA / tests) for tests in (1, N_CELLS)]
        print(
            f"| {effect:g} | "
            + " | ".join(f"{np.mean(np.isfinite(n)):.1%} | {np.minimum(n, CAP).mean():.1f}" for n in row)
            + " |"
        )


def real(n_comparisons: int) -> None:
    """Prints the rate of false alarms among tiny trainings."""
    from benchmarks.tiny_trainings import trained_values

    values = trained_values(range(2 * CAP * n_comparisons), "combined", "test/union/accuracy")
    rate = np.mean(np.isfinite(decided_after(paired(values.tolist(), CAP))))
    print(f"real A/A, {n_comparisons:,} comparisons, a look after each of {CAP} seeds: {rate:.1%} called different")


class RecordedWork(SeedingWork):
    """The rounds, each with the runs so far and the decisions."""

    def next_round(self, seeds: Mapping[str, int], families: Mapping[Comparison, Family]) -> dict[str, int]:
        more = super().next_round(seeds, families)
        self.history.append((sum(n * self._n_regimes[key] for key, n in seeds.items()), dict(self.decided)))
        return more

    history: list[tuple[int, dict[Comparison, str]]]


def default_grid(multirun: Path, margin: float | None) -> None:
    """Prints after how many runs the decisions of 12 fixed seeds are made."""
    from src.sweep.grid.cells import expand
    from tests.sweep.searches import line_of

    name = "seeding-48"
    words = [*GRID, f"seeds={CAP}", f"sweep={name}", f"multirun={multirun}", "tracking=off"]
    subprocess.run([sys.executable, "-m", "src.sweep", "-m", *words], check=True, stdout=subprocess.DEVNULL)
    fixed = judge(load_records(multirun / name, seeds=range(12)), ["sequential", "combined"], "test/union/accuracy")
    wanted = {(own.cell, own.a, own.b): own.winner for own in fixed if own.certain}
    RecordedWork.history = []
    from hydra import initialize_config_dir

    from src.io import CONF_DIR

    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        plan = plan_sweep(expand(line_of(*words)), laboratory)
    RecordedWork(plan, laboratory, Seeding(max=CAP, margin=margin))
    history = RecordedWork.history
    reached = next((n for n, decided in history if wanted.items() <= decided.items()), None)
    n_runs, decided = history[-1]
    print(f"12 fixed seeds: {len(wanted)} decisions, {len(fixed) * 24} runs")
    print(
        f"seeds=auto: all of these after {reached} runs; with {CAP} seeds at most, {len(decided)} cells decided in {n_runs} runs"
    )
    other = {key: (wanted[key], decided.get(key)) for key in wanted if decided.get(key) != wanted[key]}
    print(f"decisions that differ: {other or 'none'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--grid", type=Path)
    parser.add_argument("--margin", type=float)
    options = parser.parse_args()
    if options.grid:
        default_grid(options.grid, options.margin)
    elif options.train:
        real(options.comparisons or 1_000)
    else:
        simulated(options.comparisons or 10_000, np.random.default_rng(0))


if __name__ == "__main__":
    main()
