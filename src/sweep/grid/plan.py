"""The plan of a command: its cells by content hash, finished and missing runs, and an estimate of the time."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

from src.axes import axis_text
from src.cells.resolve import ResolvedCell
from src.config import Config
from src.errors import ConfigError
from src.io import MAX_OWN_NAME, file_name, read_json_or
from src.progress import duration, tracked
from src.sweep.engine import Engine
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell, in_cell, merged
from src.sweep.summary_notes import spelling
from src.urls import without_password

SAMPLED_RUNS = 200
"""Maximum number of finished runs read for an estimate."""


@dataclass(frozen=True)
class SweepPlan:
    """The cells of a command by their content hash.

    Attributes:
        cells: As composed; cells of equal content are one.
        n_missing: Number of runs that each lacks.
        resolved: The same cells with their data.
        hashes: The hash of each cell of the command, before merging, in order.
    """

    cells: dict[str, Cell] = field(default_factory=dict)
    n_missing: dict[str, int] = field(default_factory=dict)
    resolved: dict[str, ResolvedCell] = field(default_factory=dict)
    hashes: list[str] = field(default_factory=list)

    @property
    def config(self) -> Config:
        """A config with the settings that all cells share."""
        return next(iter(self.cells.values())).config

    @property
    def missing(self) -> dict[str, Cell]:
        """The cells that lack runs, short ones first: the stages of longer cells resume from theirs."""
        lacking = [(cell_hash, cell) for cell_hash, cell in self.cells.items() if self.n_missing[cell_hash]]
        return dict(sorted(lacking, key=lambda item: item[1].config.stopping.amount))

    @property
    def unbegun(self) -> list[ResolvedCell]:
        """The cells of which nothing is on disk."""
        return [cell for cell in self.resolved.values() if not cell.folder.exists()]

    @property
    def n_runs(self) -> int:
        return sum(cell.n_runs for cell in self.cells.values())


def plan_sweep(cells: Sequence[Cell], engine: Engine) -> SweepPlan:
    """Resolves each cell and counts its missing runs; merges cells of equal content.

    Raises ConfigError for an invalid storage, and for a cell whose settings its data cannot satisfy.
    """
    plan = SweepPlan()
    for cell in tracked(_with_storage(_one_sweep(cells)), "checked: cells", len(cells)):
        try:
            found = engine.resolve(cell.config)
        except ConfigError as error:
            raise in_cell(error, cell.overrides) from error
        if found.hash in plan.cells:
            cell = merged(plan.cells[found.hash], cell)
            found = engine.resolve(cell.config)
        plan.cells[found.hash], plan.resolved[found.hash] = cell, found
        plan.hashes.append(found.hash)
    for cell_hash, found in tracked(plan.resolved.items(), "read: cells", len(plan.resolved)):
        missing = found.missing_runs()
        plan.n_missing[cell_hash] = len(missing)
        for path in found.damaged_results(missing):
            print(f"damaged: {path}: counts as missing; the run is trained again", file=sys.stderr)
    return plan


def is_new(cells: Sequence[Cell]) -> bool:
    """Whether the sweep of these cells has no cell yet, so that all their runs are missing."""
    config = _one_sweep(cells)[0].config
    return not SweepFolder(Path(config.multirun), config.sweep).has_cells


def _with_storage(cells: Sequence[Cell]) -> list[Cell]:
    """Checks the storage and moves its password to PGPASSWORD, which workers inherit, so that no file or log has it."""
    given = cells[0].config.storage
    if given is None:
        return list(cells)
    storage, password = without_password(given)
    if not storage.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg2://")):
        raise ConfigError("storage", storage, "must be postgresql://user@host/database, sqlite:///file, or null")
    if password is not None:
        os.environ["PGPASSWORD"] = password
    return _with_setting(cells, storage=storage)


def _one_sweep(cells: Sequence[Cell]) -> list[Cell]:
    """Gives all cells one sweep name: the user's, or else one made of all data sets and architectures."""
    names = dict.fromkeys(cell.config.sweep for cell in cells)
    if len(names) == 1:
        return list(cells)
    data, arch = (cell.config.axes()["data"] for cell in cells), (cell.config.arch.name for cell in cells)
    return _with_setting(cells, sweep=default_name(data, arch))


def default_name(data: Iterable[object], arch: Iterable[object]) -> str:
    """The name of a sweep of these data sets and architectures."""
    return file_name("-".join(".".join(dict.fromkeys(map(str, names))) for names in (data, arch)), MAX_OWN_NAME)


def _with_setting(cells: Sequence[Cell], **setting: Any) -> list[Cell]:
    return [dataclasses.replace(cell, config=dataclasses.replace(cell.config, **setting)) for cell in cells]


def describe(
    plan: SweepPlan, cells_dir: Path, n_workers: int, names: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> list[str]:
    """The lines of a dry run: finished runs of each cell, then totals, time and disk space.

    `names`: by cell, the studies that it belongs to.
    """
    lines = []
    for cell_hash, cell in plan.cells.items():
        n_done = cell.n_runs - plan.n_missing[cell_hash]
        resolved = plan.resolved[cell_hash]
        values = {**cell.axes, **resolved.config.axes()}
        if resolved.config.split.priors:  # the class balance is the data's own, which the next lines show
            del values["imbalance"]
        axes = " ".join(f"{key}={axis_text(value)}" for key, value in values.items())
        lines.append(f"{cell_hash}  {n_done:>4}/{cell.n_runs:<4} {axes}")
        lines += [f"    {name}" for name in names.get(cell_hash, ())]
        if (classes := resolved.classes) is not None:
            lines += [f"    {line}" for line in _training_samples(resolved)] or [f"    classes: {classes}"]
            lines += [f"    {line}" for line in spelling(resolved)]
    n_missing = sum(plan.n_missing.values())
    lines.append(f"cells: {len(plan.cells)}, {len(plan.missing)} with missing runs")
    lines.append(f"runs: {plan.n_runs}, done {plan.n_runs - n_missing}, missing {n_missing}")
    tunings = [cell.config.tune.n_runs * len(cell.config.regimes) for cell in plan.missing.values()]
    if any(tunings):
        lines.append(f"tuning: up to {sum(tunings)} trainings before them, in {sum(n > 0 for n in tunings)} cells")
    seconds, size = _past_runs(cells_dir)
    if not n_missing:
        lines.append("nothing to run")
    elif seconds is None:
        lines.append("time and disk: unknown until a first run of this sweep is finished")
    else:
        left, disk = duration(seconds * n_missing / n_workers), f"{size * n_missing / 2**20:.1f} MiB"
        rate = f"if a run takes {seconds:.2g} s, the mean of this sweep's runs so far"
        lines.append(f"time: about {left} with {n_workers} worker{'s' * (n_workers != 1)}, {rate}; disk: {disk}")
    return lines


def _training_samples(cell: ResolvedCell) -> list[str]:
    """The training samples of each data set and class, of the first seed; none if the class balance is set."""
    names = cell.streams.class_names
    if names is None or not cell.config.split.priors:
        return []
    stream = cell.streams.build(cell.config.seeds[0])
    shape = "x".join(map(str, stream.input_shape))
    return [
        f"Dataset {part}: {sum(counts)} training samples of {shape}: "
        + ", ".join(f"{name} {n}" for name, n in zip(names, counts, strict=True) if n)
        for part, counts in enumerate(stream.class_counts, start=1)
    ]


def _past_runs(cells_dir: Path) -> tuple[float | None, float]:
    """Mean seconds and bytes of the sweep's finished runs, from a sample."""
    seconds, sizes = [], []
    for path in cells_dir.glob("*/*/result.json"):
        result = read_json_or(path)
        if "provenance" not in result:
            continue
        seconds.append(float(result["provenance"]["seconds"]))
        sizes.append(sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file()))
        if len(seconds) == SAMPLED_RUNS:
            break
    return (fmean(seconds), fmean(sizes)) if seconds else (None, 0.0)
