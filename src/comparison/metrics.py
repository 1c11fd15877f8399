"""Metrics of a run: logged values, values derived from its stages and curves, weighted sums; the score of a cell."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.comparison.pairing import RunRecord, load_records
from src.config import Objective
from src.errors import ConfigError

TERM = re.compile(r"\s*(?P<sign>[+-]?)\s*(?:(?P<factor>\d+(?:\.\d+)?)\s*\*\s*)?(?P<name>[A-Za-z_][\w/]*)\s*")


@functools.cache
def metric_terms(text: str) -> tuple[tuple[float, str], ...]:
    """The (factor, name) terms of a weighted sum of metrics; a slash is part of a name.

    Example: ``train/union/accuracy - 0.5 * test/union/accuracy``. Raises ConfigError for anything else.
    """
    terms: list[tuple[float, str]] = []
    position = 0
    while position < len(text) or not terms:
        match = TERM.match(text, position)
        if match is None or (terms and not match["sign"]):
            problem = "is no sum of metrics; write e.g. test/d2/accuracy - 0.5 * test/d1/accuracy"
            raise ConfigError("metric", text, problem)
        factor = float(match["factor"] or 1)
        terms.append((-factor if match["sign"] == "-" else factor, match["name"]))
        position = match.end()
    return tuple(terms)


def run_metric(run: RunRecord, name: str) -> float | None:
    """One metric of a run; None if undefined.

    Besides the metrics of result.json: ``converged``, the share of the run's stages that met their tolerance;
    ``lowest/CURVE`` and ``last/CURVE``, the minimum and the final value of a curve of the last stage
    (``last/val/d1/accuracy``), from history.parquet.
    """
    if name == "converged":
        converged = [stage["converged"] for stage in run.result["stages"] if stage["converged"] is not None]
        return sum(converged) / len(converged) if converged else None
    kind, _, curve = name.partition("/")
    if kind in ("lowest", "last"):
        values = _last_stage_curve(run.path.with_name("history.parquet"), curve)
        return None if not values else min(values) if kind == "lowest" else values[-1]
    return run.metric(name)


def _last_stage_curve(history: Path, name: str) -> list[float]:
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(history).read().to_pydict()
    last = max(rows["stage"], default=0)
    columns = zip(rows["stage"], rows["name"], rows["value"], strict=True)
    return [value for stage, curve, value in columns if stage == last and curve == name]


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
