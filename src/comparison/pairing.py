"""From run folders to pairs: what finished, what did not, and which two runs may be subtracted.

A run folder holds result.json (finished or diverged) or failed.json. Two runs make a pair if they share cell, seed and
kind of device; their difference is a - b, a being named first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Axis = str | float | int

SCHEMA = 1
SAME = 1e-12
"""Two values closer than this share of their size are equal: rounding must not give a difference a sign."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """One run as its result.json tells it. `result` is the reproducible part, `provenance` where and when it was made."""

    path: Path
    sweep: str
    cell: str
    run: str
    regime: str
    """The label: the name and the knobs that differ from their defaults."""
    seed: int
    axes: Mapping[str, Axis]
    diverged: bool
    result: Mapping[str, Any] = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def metric(self, name: str) -> float | None:
        """Value of a metric; None where it is undefined, missing or not finite."""
        value = self.result["metrics"].get(name)
        return float(value) if value is not None and math.isfinite(value) else None

    @property
    def device(self) -> str:
        """Kind of device that trained it, "cpu" or "cuda": runs of different kinds are never paired."""
        named = f"{self.provenance.get('device', '')} {self.provenance.get('fingerprint', '')}".lower()
        return "cuda" if "cuda" in named else "cpu"

    @property
    def n_stages(self) -> int:
        return len(self.result["stages"])

    @property
    def n_unconverged(self) -> int:
        """Stages that hit their cap; stages whose stopping rule does not ask for convergence do not count."""
        return sum(stage["converged"] is False for stage in self.result["stages"])


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedRun:
    """A run that ended in an exception and has no result yet."""

    path: Path
    cell: str
    regime: str
    seed: int
    axes: Mapping[str, Axis]
    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DamagedFile:
    """A record that cannot be read; it counts as not run."""

    path: Path
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """Everything that a sweep's folder says, in the order of the paths."""

    runs: tuple[RunRecord, ...]
    failed: tuple[FailedRun, ...] = ()
    damaged: tuple[DamagedFile, ...] = ()


def load_records(
    sweep_dir: Path, *, cells: Collection[str] | None = None, seeds: Collection[int] | None = None
) -> Records:
    """Read `sweep_dir`/cells/*/*/: all of it, or the cells and seeds of one command.

    A result beside an older failure counts; a record that cannot be read is listed as damaged, never half used.
    """
    runs: list[RunRecord] = []
    failed: list[FailedRun] = []
    damaged: list[DamagedFile] = []
    names = None if cells is None else set(cells)
    for folder in sorted((sweep_dir / "cells").glob("*/*/")):
        if names is not None and folder.parent.name not in names:
            continue
        path = next((p for p in (folder / "result.json", folder / "failed.json") if p.exists()), None)
        if path is None:
            continue
        try:
            record = _read(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            damaged.append(DamagedFile(path=path, problem=f"{type(error).__name__}: {error}"))
            continue
        if seeds is not None and record.seed not in seeds:
            continue
        if isinstance(record, RunRecord):
            runs.append(record)
        else:
            failed.append(record)
    return Records(runs=tuple(runs), failed=tuple(failed), damaged=tuple(damaged))


def _read(path: Path) -> RunRecord | FailedRun:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, not an object")
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']}, this version reads {SCHEMA}")
    cell, regime, seed, axes = str(content["cell"]), str(content["regime"]), int(content["seed"]), dict(content["axes"])
    if path.parent.parent.name != cell:
        raise ValueError(f"says that it belongs to cell {cell}, but lies in {path.parent.parent.name}")
    if path.name == "failed.json":
        return FailedRun(path=path, cell=cell, regime=regime, seed=seed, axes=axes, error=str(content["error"]))
    if content["status"] not in ("finished", "diverged"):
        raise ValueError(f"status {content['status']!r} is neither finished nor diverged")
    result, provenance = dict(content["result"]), dict(content["provenance"])
    for name, value in result["metrics"].items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"metric {name} is {value!r}, not a number")
    for stage in result["stages"]:
        if stage["converged"] not in (True, False, None):
            raise ValueError(f"converged is {stage['converged']!r}, neither true, false nor null")
    return RunRecord(
        path=path,
        sweep=str(content["sweep"]),
        cell=cell,
        run=str(content["run"]),
        regime=regime,
        seed=seed,
        axes=axes,
        diverged=content["status"] == "diverged",
        result=result,
        provenance=provenance,
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
    """Two regimes of a cell, seed by seed: `values_a[i]` and `values_b[i]` come from seed `seeds[i]`."""

    a: str
    b: str
    metric: str
    seeds: tuple[int, ...]
    values_a: tuple[float, ...]
    values_b: tuple[float, ...]
    problem: str | None
    """Why no verdict may be drawn from these pairs, or None."""
    notes: tuple[str, ...]
    """What a reader should know besides: seeds without a partner, stages that did not converge."""

    @property
    def differences(self) -> tuple[float, ...]:
        """a - b for each seed; exactly 0 where the two agree up to rounding."""
        return tuple(_difference(x, y) for x, y in zip(self.values_a, self.values_b, strict=True))


def _difference(x: float, y: float) -> float:
    return 0.0 if abs(x - y) <= SAME * max(abs(x), abs(y)) else x - y


def pair(runs: Iterable[RunRecord], a: str, b: str, metric: str) -> Pairs:
    """Pair the runs of one cell that belong to regimes `a` and `b`, by seed.

    Only seeds that both finished on one kind of device count. A diverged run makes the cell inconclusive: the seeds that
    are left were selected by the outcome.
    """
    sides: dict[str, dict[int, RunRecord]] = {a: {}, b: {}}
    for run in runs:
        if run.regime in sides:
            assert run.seed not in sides[run.regime], f"two runs of {run.regime} with seed {run.seed} in one cell"
            sides[run.regime][run.seed] = run
    diverged = {name: [seed for seed, run in sorted(side.items()) if run.diverged] for name, side in sides.items()}
    both = sorted(set(sides[a]) & set(sides[b]))
    notes: list[str] = []
    used: list[tuple[int, float, float]] = []
    undefined, mixed = [], []
    for seed in both:
        run_a, run_b = sides[a][seed], sides[b][seed]
        if run_a.diverged or run_b.diverged:
            continue
        if run_a.device != run_b.device:
            mixed.append(seed)
            continue
        value_a, value_b = run_a.metric(metric), run_b.metric(metric)
        if value_a is None or value_b is None:
            undefined.append(seed)
        else:
            used.append((seed, value_a, value_b))

    alone = sorted(set(sides[a]) ^ set(sides[b]))
    if alone:
        notes.append(f"{_seeds(alone)} finished in one regime only")
    if mixed:
        notes.append(f"{_seeds(mixed)} not paired: one run on CPU, the other on CUDA")
    if undefined and used:
        notes.append(f"{_seeds(undefined)} without a value of {metric}")
    stages = [run for seed, _, _ in used for run in (sides[a][seed], sides[b][seed])]
    n_unconverged = sum(run.n_unconverged for run in stages)
    if n_unconverged:
        notes.append(f"{n_unconverged} of {sum(run.n_stages for run in stages)} stages not converged")

    problem = None
    if any(diverged.values()):
        problem = "; ".join(f"{name} diverged ({_seeds(seeds)})" for name, seeds in diverged.items() if seeds)
    elif not both:
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
