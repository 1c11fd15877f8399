"""Reads run records from disk and pairs the runs of two regimes by seed.

A run folder holds result.json (finished or diverged) or failed.json. Two runs form a pair if they share cell, seed and
kind of device; a difference is a - b, where a comes first in the command's list of regimes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.axes import AxisValue

SCHEMA = 1
RELATIVE_TOLERANCE = 1e-12
"""Two values closer than this share of their size are equal, so that rounding never gives a difference a sign."""


@dataclass(frozen=True, kw_only=True, slots=True)
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

    @property
    def device(self) -> str:
        """Kind of training device, "cpu" or "cuda"; runs of different kinds are never paired."""
        device = f"{self.provenance.get('device', '')} {self.provenance.get('fingerprint', '')}".lower()
        return "cuda" if "cuda" in device else "cpu"

    @property
    def n_stages(self) -> int:
        return len(self.result["stages"])

    @property
    def n_unconverged(self) -> int:
        """Number of stages that reached the cap of a convergence rule."""
        return sum(stage["converged"] is False for stage in self.result["stages"])


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


def load_records(
    sweep_dir: Path, *, cells: Collection[str] | None = None, seeds: Collection[int] | None = None
) -> Records:
    """Reads `sweep_dir`/cells/*/*/, restricted to `cells` and `seeds` if given.

    A result takes precedence over an older failure of the same run. Unreadable records are listed as damaged.
    """
    records: list[RunRecord | FailedRun] = []
    damaged: list[DamagedFile] = []
    selected = None if cells is None else set(cells)
    for folder in sorted((sweep_dir / "cells").glob("*/*/")):
        if selected is not None and folder.parent.name not in selected:
            continue
        path = next((p for p in (folder / "result.json", folder / "failed.json") if p.exists()), None)
        if path is None:
            continue
        try:
            record = _read(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            damaged.append(DamagedFile(path=path, problem=f"{type(error).__name__}: {error}"))
        else:
            if seeds is None or record.seed in seeds:
                records.append(record)
    return Records(
        runs=tuple(record for record in records if isinstance(record, RunRecord)),
        failed=tuple(record for record in records if isinstance(record, FailedRun)),
        damaged=tuple(damaged),
    )


def _read(path: Path) -> RunRecord | FailedRun:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, not an object")
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']}, this version reads {SCHEMA}")
    common: dict[str, Any] = {
        "path": path,
        "cell": str(content["cell"]),
        "regime": str(content["regime"]),
        "seed": int(content["seed"]),
        "axes": dict(content["axes"]),
    }
    if path.parent.parent.name != common["cell"]:
        raise ValueError(f"names the cell {common['cell']}, but is stored under {path.parent.parent.name}")
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


def by_cell(runs: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs of each cell, cells in the order of their first run."""
    cells: dict[str, list[RunRecord]] = {}
    for run in runs:
        cells.setdefault(run.cell, []).append(run)
    return cells


# ------------------------------------------------------------------------------------------------ pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Two regimes of a cell, paired by seed: `values_a[i]` and `values_b[i]` belong to `seeds[i]`."""

    a: str
    b: str
    metric: str
    seeds: tuple[int, ...]
    values_a: tuple[float, ...]
    values_b: tuple[float, ...]
    problem: str | None
    """Why these pairs allow no verdict, or None."""
    notes: tuple[str, ...]
    """Remarks for the reader: unpaired seeds, stages that did not converge."""

    @property
    def differences(self) -> tuple[float, ...]:
        """a - b for each seed; exactly 0 if the two agree up to rounding."""
        return tuple(_difference(x, y) for x, y in zip(self.values_a, self.values_b, strict=True))


def _difference(x: float, y: float) -> float:
    return 0.0 if abs(x - y) <= RELATIVE_TOLERANCE * max(abs(x), abs(y)) else x - y


def pair(runs: Iterable[RunRecord], a: str, b: str, metric: str) -> Pairs:
    """Pairs the runs of one cell that belong to regimes `a` and `b`, by seed.

    Uses only seeds for which both runs finished on one kind of device. A diverged run makes the cell inconclusive,
    because the outcome selected the remaining seeds.
    """
    sides: dict[str, dict[int, RunRecord]] = {a: {}, b: {}}
    for run in runs:
        if run.regime in sides:
            assert run.seed not in sides[run.regime], f"two runs of {run.regime} with seed {run.seed} in one cell"
            sides[run.regime][run.seed] = run
    shared = sorted(set(sides[a]) & set(sides[b]))
    used: list[tuple[int, float, float]] = []
    undefined, mixed = [], []
    for seed in shared:
        run_a, run_b = sides[a][seed], sides[b][seed]
        if run_a.diverged or run_b.diverged:
            continue
        value_a, value_b = run_a.metric(metric), run_b.metric(metric)
        if run_a.device != run_b.device:
            mixed.append(seed)
        elif value_a is None or value_b is None:
            undefined.append(seed)
        else:
            used.append((seed, value_a, value_b))

    notes = []
    if unpaired := sorted(set(sides[a]) ^ set(sides[b])):
        notes.append(f"{_seeds(unpaired)} finished in one regime only")
    if mixed:
        notes.append(f"{_seeds(mixed)} not paired: one run on CPU, the other on CUDA")
    if undefined and used:
        notes.append(f"{_seeds(undefined)} without a value of {metric}")
    paired = [side[seed] for seed, _, _ in used for side in sides.values()]
    if n_unconverged := sum(run.n_unconverged for run in paired):
        notes.append(f"{n_unconverged} of {sum(run.n_stages for run in paired)} stages not converged")

    diverged = {name: [seed for seed, run in sorted(side.items()) if run.diverged] for name, side in sides.items()}
    problem = None
    if any(diverged.values()):
        problem = "; ".join(f"{name} diverged ({_seeds(seeds)})" for name, seeds in diverged.items() if seeds)
    elif not shared:
        problem = "no seed finished in both regimes"
    elif not used:
        problem = f"{metric} is undefined here" if undefined else "one regime ran on CPU, the other on CUDA"
    return Pairs(
        a=a,
        b=b,
        metric=metric,
        seeds=tuple(seed for seed, _, _ in used),
        values_a=tuple(value for _, value, _ in used),
        values_b=tuple(value for _, _, value in used),
        problem=problem,
        notes=tuple(notes),
    )


def _seeds(seeds: Sequence[int]) -> str:
    shown = ", ".join(map(str, seeds[:6])) + (", ..." if len(seeds) > 6 else "")
    return f"seed{'s' if len(seeds) > 1 else ''} {shown}"
