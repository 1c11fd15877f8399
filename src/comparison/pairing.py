"""Reads run records from disk and pairs the runs of two regimes by seed.

A run folder holds result.json (finished or diverged) or failed.json. Two runs form a pair if they share cell, seed and
kind of device; a difference is a - b, where a comes first in the command's list of regimes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from src.axes import AxisValue
from src.comparison.collapse import OUTLIER, collapse_of, low_outliers, two_statements
from src.comparison.units import unit_of
from src.config import SCHEMA_VERSION
from src.io import file_name, read_json

RELATIVE_TOLERANCE = 1e-12
"""Two values closer than this share of their size are equal, so that rounding never gives a difference a sign."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run, read from result.json. `result` is its reproducible part; `provenance` records when and where it ran."""

    path: Path
    sweep: str
    cell: str
    run: str
    regime: str
    """Label: the regime's name and the parameters that differ from their defaults."""
    seed: int
    axes: Mapping[str, AxisValue]
    diverged: bool
    result: Mapping[str, Any] = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def metric(self, name: str) -> float | None:
        """Value of a metric; None if undefined, missing or not finite."""
        value = self.result["metrics"].get(name)
        return float(value) if value is not None and math.isfinite(value) else None

    @functools.cached_property
    def collapsed(self) -> str:
        """How the run collapsed, judged by itself, or ""; see `collapse_of`."""
        return collapse_of(self.result, self.diverged, self.provenance.get("constant_loss"))

    @property
    def device(self) -> str:
        """Kind of training device, "cpu" or "cuda"; runs of different kinds are never paired."""
        device = f"{self.provenance.get('device', '')} {self.provenance.get('fingerprint', '')}".lower()
        return "cuda" if "cuda" in device else "cpu"

    @property
    def machines(self) -> frozenset[str]:
        """Kinds of machine that trained the run, or that scored it where no stage says who trained it."""
        trained = frozenset(kind for stage in self.provenance.get("machines", ()) for kind in stage)
        return trained or frozenset(filter(None, [self.provenance.get("fingerprint")]))

    @property
    def n_stages(self) -> int:
        return len(self.result["stages"])


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedRun:
    """A run that ended in an exception and has no result yet."""

    path: Path
    cell: str
    regime: str
    seed: int
    axes: Mapping[str, AxisValue]
    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DamagedFile:
    """A record that cannot be read; its run counts as missing."""

    path: Path
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """The records of a sweep, sorted by path."""

    runs: tuple[RunRecord, ...]
    failed: tuple[FailedRun, ...] = ()
    damaged: tuple[DamagedFile, ...] = ()

    @property
    def attempted(self) -> tuple[RunRecord | FailedRun, ...]:
        """Runs with a result or a failure."""
        return (*self.runs, *self.failed)

    def with_axes(self, axes: Mapping[str, Mapping[str, AxisValue]]) -> Records:
        """The records with the given coordinates of each cell; cells without any keep theirs."""
        runs = tuple(replace(run, axes=axes.get(run.cell, run.axes)) for run in self.runs)
        failed = tuple(replace(run, axes=axes.get(run.cell, run.axes)) for run in self.failed)
        return Records(runs=runs, failed=failed, damaged=self.damaged)


Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
AnyRun = TypeVar("AnyRun", RunRecord, FailedRun)


def load_records(
    sweep_dir: Path, *, cells: Collection[str] | None = None, seeds: Collection[int] | None = None
) -> Records:
    """Reads `sweep_dir`/cells/*/*/, of `cells` and `seeds` alone if given; see `records_in`."""
    root = sweep_dir / "cells"
    folders = root.glob("*/*/") if cells is None else (folder for cell in cells for folder in (root / cell).glob("*/"))
    return records_in(folders, seeds)


def records_in(folders: Iterable[Path], seeds: Collection[int] | None = None) -> Records:
    """Reads the folders of runs, of `seeds` alone if given.

    A result takes precedence over an older failure of the same run. Unreadable records are listed as damaged.
    """
    runs: list[RunRecord] = []
    failed: list[FailedRun] = []
    damaged: list[DamagedFile] = []
    for folder in sorted(folders):
        path = next((p for p in (folder / "result.json", folder / "failed.json") if p.exists()), None)
        if path is None:
            continue
        try:
            record = _read(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            damaged.append(DamagedFile(path=path, problem=f"{type(error).__name__}: {error}"))
            continue
        if seeds is None or record.seed in seeds:
            runs.append(record) if isinstance(record, RunRecord) else failed.append(record)
    return Records(runs=tuple(runs), failed=tuple(failed), damaged=tuple(damaged))


def _read(path: Path) -> RunRecord | FailedRun:
    content = read_json(path)
    if content["schema"] != SCHEMA_VERSION:
        raise ValueError(f"schema {content['schema']}, this version reads {SCHEMA_VERSION}")
    common: dict[str, Any] = {
        "path": path,
        "cell": str(content["cell"]),
        "regime": str(content["regime"]),
        "seed": int(content["seed"]),
        "axes": dict(content["axes"]),
    }
    if path.parent.parent.name != common["cell"]:
        raise ValueError(f"names the cell {common['cell']}, but is stored under {path.parent.parent.name}")
    if path.parent.name != (expected := file_name(f"{common['regime']}-{common['seed']}")):
        raise ValueError(f"belongs to the folder {expected}; this copy is not read")
    if path.name == "failed.json":
        return FailedRun(error=str(content["error"]), **common)
    if content["status"] not in ("finished", "diverged"):
        raise ValueError(f"status {content['status']!r} is neither finished nor diverged")
    result = dict(content["result"])
    for name, value in result["metrics"].items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"metric {name} is {value!r}, not a number")
    for stage in result["stages"]:
        if stage["converged"] not in (True, False, None):
            raise ValueError(f"converged is {stage['converged']!r}, neither true, false nor null")
    return RunRecord(
        sweep=str(content["sweep"]),
        run=str(content["run"]),
        diverged=content["status"] == "diverged",
        result=result,
        provenance=dict(content["provenance"]),
        **common,
    )


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items by key, keys in the order of their first item."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def by_cell(runs: Iterable[AnyRun]) -> dict[str, list[AnyRun]]:
    """The runs of each cell."""
    return grouped(runs, lambda run: run.cell)


def collapses(runs: Iterable[RunRecord], metric: str) -> dict[str, dict[int, str]]:
    """How runs of a cell collapsed, by regime and seed: judged alone or, as outliers, by the regime's others."""
    found: dict[str, dict[int, str]] = {}
    for regime, own in grouped(runs, lambda run: run.regime).items():
        found[regime] = {run.seed: run.collapsed for run in own if run.collapsed}
        values = {run.seed: value for run in own if not run.collapsed and (value := run.metric(metric)) is not None}
        if values and unit_of(metric).higher_is_better:
            outliers = zip(values, low_outliers(list(values.values())), strict=True)
            found[regime] |= {seed: OUTLIER for seed, is_outlier in outliers if is_outlier}
    return found


def _without_harmless_outliers(
    how: Mapping[str, Mapping[int, str]], sides: Mapping[str, Mapping[int, RunRecord]], metric: str
) -> dict[str, dict[int, str]]:
    """The collapses of two regimes without the outliers of one that trails anyway: its mean is lower with them, too."""
    found = {name: dict(how.get(name, {})) for name in sides}
    if not any(OUTLIER in own.values() for own in found.values()):
        return found
    typical = {}
    for name, side in sides.items():
        values = [
            value for seed, run in side.items() if seed not in found[name] and (value := run.metric(metric)) is not None
        ]
        typical[name] = float(np.mean(values)) if values else -math.inf
    for name in sides:
        if typical[name] < max(typical.values()):
            found[name] = {seed: reason for seed, reason in found[name].items() if reason != OUTLIER}
    return found


def _mean(values: Sequence[float]) -> float:
    """`np.mean` to the last bit, without what it does for arrays: a grid asks for many means of few values."""
    return float(np.add.reduce(values)) / len(values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Two regimes of a cell, paired by seed: `differences[i]` belongs to `seeds[i]`."""

    a: str
    b: str
    metric: str
    mean_a: float | None = None
    """Mean of regime a over the paired seeds; None without a pair."""
    mean_b: float | None = None
    seeds: tuple[int, ...] = field(default=(), repr=False)
    differences: tuple[float, ...] = field(default=(), repr=False)
    """a - b for each of `seeds`, in the metric's own unit; exactly 0 if the two agree up to rounding."""
    problem: str | None = None
    """Why these pairs allow no verdict, or None."""
    notes: tuple[str, ...] = ()
    """Remarks for the reader: unpaired seeds, stages that did not converge, failed runs."""
    collapsed: tuple[int, int] = (0, 0)
    """Number of collapsed runs of a and of b."""

    @property
    def n(self) -> int:
        return len(self.seeds)

    @property
    def difference(self) -> float | None:
        """Mean of a - b over seeds; None without a pair."""
        return _mean(self.differences) if self.differences else None

    @property
    def leader(self) -> str:
        """The regime that the mean difference favours."""
        assert self.difference is not None
        return self.a if (self.difference > 0) == unit_of(self.metric).higher_is_better else self.b


def pair(runs: Iterable[RunRecord], a: str, b: str, metric: str) -> Pairs:
    """Pairs the runs of one cell that belong to regimes `a` and `b`, by seed.

    Uses only seeds for which both runs finished on one kind of device, and of these the ones that trained in both, if
    any did. A collapsed run makes the cell inconclusive, because the outcome selected the remaining seeds; `problem`
    then states what is known of both regimes.
    """
    sides: dict[str, dict[int, RunRecord]] = {a: {}, b: {}}
    runs = [run for run in runs if run.regime in sides]
    for run in runs:
        assert run.seed not in sides[run.regime], f"two runs of {run.regime} with seed {run.seed} in one cell"
        sides[run.regime][run.seed] = run
    shared = sorted(sides[a].keys() & sides[b].keys())
    how = _without_harmless_outliers(collapses(runs, metric), sides, metric)
    collapsed = {name: sorted(how[name]) for name in sides}
    used: dict[int, tuple[float, float]] = {}
    undefined, mixed = [], []
    for seed in shared:
        run_a, run_b = sides[a][seed], sides[b][seed]
        value_a, value_b = run_a.metric(metric), run_b.metric(metric)
        if run_a.diverged or run_b.diverged:
            continue
        if run_a.device != run_b.device:
            mixed.append(seed)
        elif value_a is None or value_b is None:
            undefined.append(seed)
        else:
            used[seed] = (value_a, value_b)
    trained = {seed: values for seed, values in used.items() if seed not in {*collapsed[a], *collapsed[b]}}
    used = trained or used

    notes = []
    for name, seeds in collapsed.items():
        for reason, own in grouped(seeds, how[name].__getitem__).items():
            notes.append(f"{name} collapsed ({seed_list(own)}): {reason}")
    if unpaired := sorted(sides[a].keys() ^ sides[b].keys()):
        notes.append(f"{seed_list(unpaired)} finished in one regime only")
    if mixed:
        notes.append(f"{seed_list(mixed)} not paired: one run on CPU, the other on CUDA")
    if foreign := [seed for seed in used if len(sides[a][seed].machines | sides[b][seed].machines) > 1]:
        notes.append(f"{seed_list(foreign)} trained on several kinds of machine, which round differently")
    if undefined and used:
        notes.append(f"{seed_list(undefined)} without a value of {metric}")
    converged = [
        stage["converged"] for seed in used for side in sides.values() for stage in side[seed].result["stages"]
    ]
    if n_unconverged := converged.count(False):
        notes.append(f"{n_unconverged} of {len(converged)} stages not converged")

    mean_a, mean_b = (_mean(side) for side in zip(*used.values(), strict=True)) if used else (None, None)
    differences = tuple(0.0 if math.isclose(x, y, rel_tol=RELATIVE_TOLERANCE) else x - y for x, y in used.values())
    problem = None
    if any(collapsed.values()):
        problem = two_statements(
            {name: (list(sides[name]), collapsed[name]) for name in (a, b)}, differences if trained else (), metric
        )
    elif not shared:
        problem = "no seed finished in both regimes"
    elif not used:
        problem = f"{metric} is undefined here" if undefined else "one regime ran on CPU, the other on CUDA"
    return Pairs(
        a=a,
        b=b,
        metric=metric,
        mean_a=mean_a,
        mean_b=mean_b,
        seeds=tuple(used),
        differences=differences,
        problem=problem,
        notes=tuple(notes),
        collapsed=(len(collapsed[a]), len(collapsed[b])),
    )


def seed_list(seeds: Sequence[int], most: int = 6) -> str:
    """The seeds in words, at most `most` of them."""
    shown = ", ".join(map(str, seeds[:most])) + (", ..." if len(seeds) > most else "")
    return f"seed{'s' if len(seeds) > 1 else ''} {shown}"
