"""What a cell is worth to a search: a validation metric of its regimes, mean over the seeds, from their curves on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.comparison.metrics import run_metric
from src.comparison.pairing import load_records
from src.config import Objective


@dataclass(frozen=True)
class Score:
    """What a cell is worth to a search. `means`: of the objective's metric over the seeds, by regime; without it,
    `problem` says why. `diverged`: this is so for good, since a loss was not finite."""

    means: Mapping[str, float] | None
    problem: str = ""
    diverged: bool = False


def score_of(sweep_dir: Path, cell: str, seeds: Sequence[int], objective: Objective) -> Score:
    """The mean of the objective's metric over `seeds`, for each of its regimes, at the weights that a run ends with.

    The last point of a curve is made with these weights (those that early stopping went back to, too). Both regimes of a
    difference count on the same seeds, so that the difference of their means is the mean paired difference.
    """
    records = load_records(sweep_dir, cells=[cell], seeds=seeds)
    runs = {(run.regime, run.seed): run for run in records.runs}
    means = {}
    for label in objective.of:
        values = []
        for seed in seeds:
            run = runs.get((label, seed))
            if run is None:
                return Score(None, f"{label}-{seed} has no result")
            if run.diverged:
                return Score(None, f"{label}-{seed} diverged, its loss is not finite", diverged=True)
            value = run_metric(run, f"last/{objective.metric}")
            if value is None:
                return Score(None, f"{label}-{seed} has no {objective.metric}", diverged=True)
            values.append(value)
        means[label] = sum(values) / len(values)
    return Score(means)
