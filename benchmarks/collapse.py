"""False alarms of the verdicts if one regime collapses in some of its runs and both regimes have the same mean.

    python -m benchmarks.collapse [--share 0.1] [--seeds 12]

Every sweep is simulated and judged as a command does it. Trained runs have a standard deviation of 2 points, collapsed runs an
accuracy of 10 %. "before": the sign-flip test of all runs, Holm over the sweep's cells, as verdicts were drawn until collapsed
runs were recognised.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
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


def sweep(
    rng: np.random.Generator, lead: str, n_cells: int, share: float, n_seeds: int
) -> dict[str, tuple[Floats, Floats]]:
    """Accuracies of a sweep whose first regime collapses. `lead` of its trained runs: ``none``, or ``compensating``."""
    gain = share / (1 - share) * (TRAINED - CHANCE) if lead == "compensating" else 0.0
    cells = {}
    for number in range(n_cells):
        a, b = TRAINED + SPREAD * rng.normal(size=(2, n_seeds))
        cells[f"c{number:03}"] = np.where(rng.random(n_seeds) < share, CHANCE, a + gain), b
    return cells


def alarm_rate(
    rng: np.random.Generator,
    *,
    lead: str,
    n_cells: int,
    n_sweeps: int,
    share: float = SHARE,
    n_seeds: int = N_SEEDS,
    before: bool = False,
) -> float:
    """Share of the cells of all sweeps for which a winner is named."""
    alarms = 0
    for _ in range(n_sweeps):
        cells = sweep(rng, lead, n_cells, share, n_seeds)
        if before:
            alarms += int((holm(sign_flip_p(np.array([a - b for a, b in cells.values()]))) <= 0.05).sum())
        else:
            alarms += sum(verdict.certain for verdict in judge(records_of(cells), REGIMES))
    return alarms / (n_sweeps * n_cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=SHARE, help="share of the first regime's runs that collapse")
    parser.add_argument("--seeds", type=int, default=N_SEEDS)
    options = parser.parse_args()
    print("| equal means of | cells of the sweep | called different before | now |\n| --- | ---: | ---: | ---: |")
    for lead, text in (("compensating", "all runs"), ("none", "the runs that trained")):
        for n_cells, n_sweeps in ((30, 100), (5, 600), (1, 3000)):
            size: dict[str, Any] = {"lead": lead, "n_cells": n_cells, "n_sweeps": n_sweeps}
            size |= {"share": options.share, "n_seeds": options.seeds}
            old, new = (alarm_rate(np.random.default_rng(0), **size, before=before) for before in (True, False))
            print(f"| {text} | {n_cells} | {old:.1%} | {new:.1%} |", flush=True)


if __name__ == "__main__":
    main()
