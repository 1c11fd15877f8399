"""False alarms of the verdicts if one regime collapses in some of its runs and both regimes have the same mean.

    python -m benchmarks.collapse [--share 0.1] [--seeds 12]

Every sweep is simulated and judged as a command does it. Trained runs have a standard deviation of 2 points, collapsed runs an
accuracy of 10 % or 40 %. "before": the sign-flip test of all runs, Holm over the sweep's cells, as verdicts were drawn until
collapsed runs were recognised. The last rows have no collapse: false alarms and power of ordinary cells.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.comparison.pairing import Records, RunRecord
from src.comparison.statistics import holm, sign_flip_p
from src.comparison.verdicts import judge

Floats = NDArray[np.float64]
REGIMES = ("sequential", "combined")
CHANCE, TRAINED, SPREAD = 0.1, 0.85, 0.02
SHARE, N_SEEDS = 0.1, 12


def records_of(cells: Mapping[str, tuple[Floats, Floats]]) -> Records:
    """The records of both regimes' accuracies [seeds]; a run at chance level predicts one class of ten."""
    return Records(
        runs=tuple(
            _run(cell, regime, seed, float(value))
            for cell, sides in cells.items()
            for regime, values in zip(REGIMES, sides, strict=True)
            for seed, value in enumerate(values)
        )
    )


def _run(cell: str, regime: str, seed: int, value: float) -> RunRecord:
    recalls = [1.0, *[0.0] * 9] if value <= CHANCE else [value] * 10
    metrics: dict[str, Any] = {"test/union/accuracy": value}
    metrics |= {f"test/union/recall/{k}": recall for k, recall in enumerate(recalls)}
    result = {"metrics": metrics, "stages": [{"parts": [0], "converged": None}], "class_counts": [[10] * 10]}
    where = {"path": Path("result.json"), "sweep": "simulated", "cell": cell, "run": f"{cell}{regime}{seed}"}
    return RunRecord(
        **where, regime=regime, seed=seed, axes={"cell": cell}, diverged=False, result=result, provenance={}
    )


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """How the first regime's runs are distributed; the second's are normal around `TRAINED`."""

    text: str
    share: float = 0.0
    """Of its runs that collapse."""
    level: float = CHANCE
    """Accuracy of a collapsed run."""
    lead: float = 0.0
    """Of its runs that train."""
    heavy: bool = False
    """Whether trained runs of both have heavy tails (t, 3 degrees of freedom)."""


def scenarios(share: float) -> dict[str, Scenario]:
    """The rows of the table. A lead that compensates gives both regimes equal means over all runs."""
    return {
        "compensated": _compensated("all runs; collapse to chance level", share, CHANCE),
        "partial": _compensated("all runs; collapse to 40 %", share, 0.4),
        "uncompensated": Scenario(text="the runs that trained; collapse to chance level", share=share),
        "ordinary": Scenario(text="all runs; none collapses"),
        "heavy": Scenario(text="all runs; none collapses, heavy tails", heavy=True),
        "power": Scenario(text="(none collapses, a lead of 1.2 SD)", lead=1.2 * 2**0.5 * SPREAD),
    }


def _compensated(text: str, share: float, level: float) -> Scenario:
    return Scenario(text=text, share=share, level=level, lead=share / (1 - share) * (TRAINED - level))


def sweep(rng: np.random.Generator, scenario: Scenario, n_cells: int, n_seeds: int) -> dict[str, tuple[Floats, Floats]]:
    """Accuracies of a sweep: both regimes' [seeds], by cell."""
    cells = {}
    for number in range(n_cells):
        shape = (2, n_seeds)
        a, b = TRAINED + SPREAD * (rng.standard_t(3, shape) if scenario.heavy else rng.normal(size=shape))
        collapses = rng.random(n_seeds) < scenario.share
        cells[f"c{number:03}"] = np.where(collapses, scenario.level, a + scenario.lead), b
    return cells


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of the cells for which a winner is named."""

    before: float
    """By the sign-flip test of all runs alone."""
    of_means: float
    of_trained: float
    """The sentence limits the verdict to runs that train."""


def winner_rates(
    rng: np.random.Generator, scenario: Scenario, *, n_cells: int, n_sweeps: int, n_seeds: int = N_SEEDS
) -> Rates:
    """The rates over all cells of simulated sweeps."""
    before, of_means, of_trained = 0, 0, 0
    for _ in range(n_sweeps):
        cells = sweep(rng, scenario, n_cells, n_seeds)
        before += int((holm(sign_flip_p(np.array([a - b for a, b in cells.values()]))) <= 0.05).sum())
        winners = [verdict for verdict in judge(records_of(cells), REGIMES) if verdict.certain]
        of_means += sum(not verdict.caveat for verdict in winners)
        of_trained += sum(bool(verdict.caveat) for verdict in winners)
    n = n_sweeps * n_cells
    return Rates(before=before / n, of_means=of_means / n, of_trained=of_trained / n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=SHARE, help="share of the first regime's runs that collapse")
    parser.add_argument("--seeds", type=int, default=N_SEEDS)
    options = parser.parse_args()
    print(
        "| equal means of | cells | a winner before | now | now, of runs that train |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for scenario in scenarios(options.share).values():
        for n_cells, n_sweeps in ((30, 100), (5, 600), (1, 3000)) if scenario.share else ((1, 3000),):
            size = {"n_cells": n_cells, "n_sweeps": n_sweeps, "n_seeds": options.seeds}
            rates = winner_rates(np.random.default_rng(0), scenario, **size)
            columns = [f"{rate:.1%}" for rate in (rates.before, rates.of_means, rates.of_trained)]
            print(f"| {scenario.text} | {n_cells} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
