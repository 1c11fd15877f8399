"""The score of a cell in a search: the mean over seeds of a validation metric of its regimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.comparison.metrics import run_metric
from src.comparison.pairing import load_records
from src.config import Objective


@dataclass(frozen=True)
class Score:
    """A cell's score. `means`: the objective's metric averaged over seeds, by regime; None with the reason in
    `problem`.

    `diverged`: training the cell again would not help, because a loss was not finite.
    """

    means: Mapping[str, float] | None
    problem: str = ""
    diverged: bool = False
    differences: Sequence[float] = ()
    """Of the objective's two regimes, for each seed."""


def score_of(sweep_dir: Path, cell: str, seeds: Sequence[int], objective: Objective) -> Score:
    """The mean of the objective's metric over `seeds` for each of its regimes, at the final weights of each run.

    The last point of a curve belongs to the final weights, also where early stopping restored them. All regimes use the
    same seeds, so the difference of two means is the mean paired difference.
    """
    runs = {(run.regime, run.seed): run for run in load_records(sweep_dir, cells=[cell], seeds=seeds).runs}
    found: dict[str, list[float]] = {}
    for label in objective.of:
        values: list[float] = []
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
        found[label] = values
    differences = [a - b for a, b in zip(*found.values(), strict=True)] if len(found) == 2 else []
    return Score({label: sum(own) / len(own) for label, own in found.items()}, differences=differences)
