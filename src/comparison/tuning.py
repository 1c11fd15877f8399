"""What tuning found for each regime of a cell: the chosen values, whether they lie at the edge of the space, best-of-k
curves."""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.axes import axis_text
from src.comparison.statistics import Floats
from src.comparison.tables import csv_text, in_order, level_texts, varying_axes
from src.comparison.text_table import TextTable
from src.comparison.units import name_of, unit_of
from src.comparison.verdicts import CellVerdict
from src.io import file_name, read_json, with_checksum, write_atomically

SAME_BUDGET = 0.01
"""Share by which the budgets of two regimes may differ without a remark."""
FOLDER = "tuning"
"""In the folder of a cell: a file for each regime."""


@dataclass(frozen=True, kw_only=True)
class TuningTrial:
    """One point of the space. `score`: the mean of the objective over the seeds; None, the worst, if a training failed
    or diverged. `runs`: seed, stages, validation metrics and cost of each training. `problem`: "" or why there is no
    score."""

    values: Mapping[str, Any]
    score: float | None
    problem: str
    updates: int
    samples: int
    flops: float
    seconds: float
    runs: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The tuning of one regime in one cell. `edges`: chosen values at the ``lower`` or ``upper`` end of their range."""

    regime: str
    objective: str
    trials: Sequence[TuningTrial]
    best: int
    edges: Mapping[str, str]

    @property
    def chosen(self) -> TuningTrial:
        return self.trials[self.best]

    @property
    def text(self) -> str:
        """The chosen values, ``optimizer.lr=0.03 lr_factor=0.1``."""
        return " ".join(f"{key}={axis_text(value)}" for key, value in self.chosen.values.items()) or "-"

    @property
    def remarks(self) -> list[str]:
        """What a reader of the verdict must know."""
        found = [
            f"{self.regime}: best at the edge of tune.space: widen it ({end} end of {key})"
            for key, end in self.edges.items()
        ]
        worst = [trial for trial in self.trials if trial.score is None]
        if len(worst) == len(self.trials):
            found.append(f"{self.regime}: no trial of its tuning has a score: {worst[0].problem}")
        return found

    def scores(self) -> list[float]:
        """The trials' scores, larger is better, in order; a trial without one counts as the worst."""
        sign = unit_of(self.objective).sign
        known = [sign * trial.score for trial in self.trials if trial.score is not None]
        return [min(known, default=math.nan) if t.score is None else sign * t.score for t in self.trials]


def best_trial(scores: Sequence[float | None], objective: str) -> int:
    """The first of the best trials."""
    sign = unit_of(objective).sign
    return max(range(len(scores)), key=lambda k: (-math.inf if (s := scores[k]) is None else sign * s, -k))


def write_tuned(cell_dir: Path, tuned: Tuned) -> None:
    """Writes the tuning of one regime into the folder of its cell."""
    body = with_checksum({"schema": 1, **asdict(tuned)})
    write_atomically(path_of(cell_dir, tuned.regime), json.dumps(body, indent=1) + "\n")


def read_tuned(cell_dir: Path, regime: str) -> Tuned | None:
    """The tuning of one regime; None if it was not tuned, or, with a warning, if its file is damaged."""
    path = path_of(cell_dir, regime)
    try:
        body = read_json(path)
        fields = {key: body[key] for key in ("regime", "objective", "best", "edges")}
        return Tuned(trials=[TuningTrial(**trial) for trial in body["trials"]], **fields)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path} is damaged ({error}); the regime is tuned again, with the same choice", stacklevel=2)
        return None


def path_of(cell_dir: Path, regime: str) -> Path:
    """The file of a regime's tuning."""
    return cell_dir / FOLDER / file_name(f"{regime}.json")


def tuning_of(sweep_dir: Path, cells: Iterable[str], regimes: Collection[str]) -> dict[tuple[str, str], Tuned]:
    """(cell, regime) -> its tuning, for those that were tuned."""
    found = {
        (cell, regime): read_tuned(sweep_dir / "cells" / cell, regime)
        for cell in cells
        if (sweep_dir / "cells" / cell / FOLDER).is_dir()
        for regime in regimes
    }
    return {key: tuned for key, tuned in found.items() if tuned is not None}


def with_remarks(verdicts: Sequence[CellVerdict], tuning: Mapping[tuple[str, str], Tuned]) -> list[CellVerdict]:
    """The verdicts with the remarks on the tuning of their two regimes."""
    noted = []
    for verdict in verdicts:
        own = [tuning[verdict.cell, name] for name in (verdict.a, verdict.b) if (verdict.cell, name) in tuning]
        notes = [remark for tuned in own for remark in tuned.remarks]
        samples = [sum(trial.samples for trial in tuned.trials) for tuned in own]
        if samples and max(samples) > (1 + SAME_BUDGET) * min(samples):
            notes.append(f"the trials of {verdict.a} and {verdict.b} have different budgets in samples: see tuning.csv")
        noted.append(replace(verdict, notes=(*verdict.notes, *notes)))
    return noted


def sentence_of(tuned: Tuned) -> str:
    """``sequential: optimizer.lr=0.03, best of 8 by val/union/accuracy 0.953``."""
    score = "none" if tuned.chosen.score is None else f"{tuned.chosen.score:.4g}"
    return f"{tuned.regime}: {tuned.text}, best of {len(tuned.trials)} by {tuned.objective} {score}"


def tuning_metrics(tuned: Iterable[Tuned]) -> dict[str, float]:
    """MLflow metrics of a cell: the score, and every chosen value that is a number, ``tuned/{regime}/{key}``."""
    metrics: dict[str, float] = {}
    for one in tuned:
        values = {"score": one.chosen.score, **one.chosen.values}
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        metrics |= {f"tuned/{one.regime}/{key}": float(value) for key, value in numbers.items()}
    return metrics


def tuning_table(verdicts: Sequence[CellVerdict], tuning: Mapping[tuple[str, str], Tuned]) -> TextTable | None:
    """The values that each regime was compared with, one row a cell; None if nothing was tuned."""
    if not tuning:
        return None
    axes, regimes = varying_axes(verdicts), list(dict.fromkeys(regime for _, regime in tuning))
    cells = in_order(list({verdict.cell: verdict for verdict in verdicts}.values()))
    rows = []
    for cell in cells:
        own = [tuning.get((cell.cell, regime)) for regime in regimes]
        if any(own):
            rows.append((*level_texts(cell, axes), *map(_field, own)))
    first = next(iter(tuning.values()))
    unit = unit_of(first.objective).of_values
    score = f"{name_of(first.objective)}{f', {unit}' if unit else ''}"
    title = f"Chosen from {len(first.trials)} trials each by {score}"
    return TextTable(heads=(*axes, *regimes), rows=tuple(rows), align="r" * len(axes) + "l" * len(regimes), title=title)


def side_by_side(default: Sequence[CellVerdict], tuned: Sequence[CellVerdict]) -> TextTable:
    """One row for each cell that both have; a winner is emphasised."""
    axes = [axis for axis in varying_axes(tuned) if axis != "tune"]
    others: Mapping[tuple[str, ...], CellVerdict] = {level_texts(verdict, axes): verdict for verdict in default}
    rows = []
    for verdict in in_order(tuned):
        place = level_texts(verdict, axes)
        if (other := others.get(place)) is not None:
            rows.append((*place, *(text for one in (other, verdict) for text in _texts(one))))
    heads = (*axes, "default", "wins", "tuned", "wins")
    return TextTable(heads=heads, rows=tuple(rows), align="r" * len(axes) + "rlrl")


def _texts(verdict: CellVerdict) -> tuple[str, str]:
    """The difference with its interval, and the winner."""
    unit = unit_of(verdict.metric)
    effect = unit.estimate(verdict.difference, verdict.ci_low, verdict.ci_high)
    return effect, f"**{verdict.winner}**" if verdict.certain else verdict.winner


def _field(tuned: Tuned | None) -> str:
    """``lr 0.03, lr_factor 0.96 (upper end): 95.3``."""
    if tuned is None:
        return "-"
    ends = {key: f" ({end} end)" for key, end in tuned.edges.items()}
    values = [f"{key.rpartition('.')[2]} {axis_text(v)}{ends.get(key, '')}" for key, v in tuned.chosen.values.items()]
    return f"{', '.join(values) or '-'}: {unit_of(tuned.objective).value(tuned.chosen.score)}"


def tuning_csv(tuning: Mapping[tuple[str, str], Tuned]) -> str:
    """Every trial: cell, regime, values, score, cost."""
    heads = "cell regime trial values objective score chosen updates samples flops seconds problem"
    rows: list[tuple[object, ...]] = [tuple(heads.split())]
    for (cell, regime), tuned in tuning.items():
        for k, trial in enumerate(tuned.trials):
            values = " ".join(f"{key}={value}" for key, value in trial.values.items())
            score, is_chosen = "" if trial.score is None else trial.score, int(k == tuned.best)
            cost = (trial.updates, trial.samples, trial.flops, f"{trial.seconds:.3f}")
            rows.append((cell, regime, k, values, tuned.objective, score, is_chosen, *cost, trial.problem))
    return csv_text(rows)


def best_of(scores: Sequence[float]) -> Floats:
    """Expected best score of k = 1, ..., n trials, from n scores of which larger is better: [n].

    The mean over all subsets of k of the n trials: the unbiased estimate of Tang et al. (2020, "Showing Your Work
    Doesn't Always Work", ACL); the expectation itself is Dodge et al.'s (2019, "Show Your Work", EMNLP). Trial i of the
    sorted scores is the best of C(i - 1, k - 1) of the C(n, k) subsets.
    """
    ordered, n = sorted(scores), len(scores)
    return np.array(
        [sum(math.comb(i, k - 1) * score for i, score in enumerate(ordered)) / math.comb(n, k) for k in range(1, n + 1)]
    )


def best_of_band(scores: Sequence[float], lowest: float, highest: float, level: float = 0.95) -> tuple[Floats, Floats]:
    """Lower and upper end of a band that holds the whole curve of expected best scores with probability `level`: [n]
    each.

    The exact Kolmogorov-Smirnov band of the score's distribution, carried to the curve (Lourie, Cho & He 2024, "Show
    Your Work with Confidence", NAACL): the distribution of the best of k is F^k, which falls as F rises. Scores lie in
    [lowest, highest]. Valid for independent trials of any continuous distribution, conservative with ties and with
    evenly spread points.
    """
    ordered, n = np.sort(np.asarray(scores, dtype=float)), len(scores)
    margin, steps, k = _margin(n, level), np.arange(n + 1) / n, np.arange(1, n + 1)[:, None]
    pessimistic = np.clip(steps + margin, 0, 1)  # F at `lowest` and at each score
    optimistic = np.append(np.clip(steps - margin, 0, 1), 1.0)  # F at lowest and each score, and at highest
    low = np.diff(pessimistic**k, axis=1, prepend=0) @ np.concatenate([[lowest], ordered])
    high = np.diff(optimistic**k, axis=1, prepend=0) @ np.concatenate([[lowest], ordered, [highest]])
    return low, high


@functools.cache
def _margin(n: int, level: float) -> float:
    from scipy.stats import kstwo

    return float(kstwo.ppf(level, n))
