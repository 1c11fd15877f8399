"""Power of three corrections that are valid for correlated cells, and what a larger grid does to verdicts.

    python -m benchmarks.families multirun/digits-mlp [--sweeps 300]

Sweeps are simulated from the measured one: its cells' means, and the residuals of a drawn seed in all cells at once with a random
sign, which keeps the correlation of cells that share runs. Holm corrects exact p-values; "min p" and "max t" are Westfall and
Young's step-down procedures (1993) over all sign flips of the seeds, which know that correlation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.comparison.pairing import load_records
from src.comparison.statistics import holm, sign_flip_p
from src.comparison.verdicts import judge

Floats = NDArray[np.float64]
ALPHA = 0.05


def flipped_sums(differences: Floats) -> Floats:
    """|sum| of every cell [cells, n] under half of the sign flips, the other half being equal: [flips, cells]."""
    n = differences.shape[1]
    signs = 1.0 - 2.0 * ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1)
    return np.asarray(np.abs(signs @ differences.T).round(10))


def step_down(statistics: Floats) -> Floats:
    """Westfall and Young's adjusted p from statistics [flips, cells], the measured ones first; large ones count."""
    order = np.argsort(-statistics[0], kind="stable")
    largest = np.maximum.accumulate(statistics[:, order[::-1]], axis=1)[:, ::-1]
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(np.mean(largest >= statistics[0, order], axis=0))
    return adjusted


def max_t(differences: Floats) -> Floats:
    """By the mean over its root mean square, which no flip changes."""
    size = np.sqrt((differences**2).sum(axis=1))
    return step_down(flipped_sums(differences) / np.where(size > 0, size, 1))


def min_p(differences: Floats) -> Floats:
    """By the p-value of each cell, so that cells of any distribution count alike."""
    sums = flipped_sums(differences)
    ranks = [np.searchsorted(np.sort(column), column, side="left") for column in sums.T]
    return step_down(np.stack(ranks, axis=1).astype(np.float64))


CORRECTIONS: dict[str, Callable[[Floats], Floats]] = {
    "Holm": lambda differences: holm(sign_flip_p(differences)),
    "min p": min_p,
    "max t": max_t,
}


def simulated(rng: np.random.Generator, residuals: Floats, means: Floats) -> Floats:
    """The differences of one sweep like the measured one, with other means [cells]."""
    n = residuals.shape[1]
    drawn = residuals[:, rng.integers(0, n, n)] * rng.choice([-1.0, 1.0], n) * np.sqrt(n / (n - 1))
    return np.asarray(drawn + means[:, None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sweep", type=Path, help="the folder of a sweep of sequential and combined, all cells with equal seeds"
    )
    parser.add_argument("--sweeps", type=int, default=300)
    options = parser.parse_args()
    verdicts = judge(load_records(options.sweep), ("sequential", "combined"))
    measured = np.array([verdict.differences for verdict in verdicts])
    means, residuals = measured.mean(axis=1), measured - measured.mean(axis=1, keepdims=True)
    undecided = np.array([not verdict.certain for verdict in verdicts])
    cases = {
        "as measured": means,
        "half as large": means / 2,
        "0 in the undecided cells": np.where(undecided, 0, means),
        "0 in all cells": 0 * means,
    }
    print(
        f"| means of {len(means)} cells | {' | '.join(CORRECTIONS)} |\n| --- | {'---: | ' * len(CORRECTIONS)}".rstrip()
    )
    found = [int((correct(measured) <= ALPHA).sum()) for correct in CORRECTIONS.values()]
    print(f"| the measured sweep itself: cells with a winner | {' | '.join(map(str, found))} |")
    for name, case in cases.items():
        rng, rejected = np.random.default_rng(0), []
        for _ in range(options.sweeps):
            values = simulated(rng, residuals, case)
            rejected.append([correct(values) <= ALPHA for correct in CORRECTIONS.values()])
        by_correction = np.array(rejected)  # [sweeps, corrections, cells]
        power = by_correction[:, :, case != 0].sum(axis=2).mean(axis=0)
        wrong = by_correction[:, :, case == 0].any(axis=2).mean(axis=0)
        if (case != 0).any():
            print(f"| {name}: winners found | {' | '.join(f'{value:.2f}' for value in power)} |")
        if (case == 0).any():
            print(f"| {name}: sweeps with a false one | {' | '.join(f'{value:.1%}' for value in wrong)} |", flush=True)
    rng, lost = np.random.default_rng(0), []
    n_cells, winners = len(means), CORRECTIONS["Holm"](measured) <= ALPHA
    for factor in (2, 5):
        added = np.concatenate([simulated(rng, residuals, 0 * means) for _ in range(factor - 1)])
        now = CORRECTIONS["Holm"](np.concatenate([measured, added]))[:n_cells] <= ALPHA
        lost.append(f"{int((winners & ~now).sum())} of {int(winners.sum())} at {factor * n_cells} cells")
    print(f"\nWinners lost if all cells of a larger grid were one family: {', '.join(lost)}; by families: none.")


if __name__ == "__main__":
    main()
