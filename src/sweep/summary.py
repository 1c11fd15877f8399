"""End-of-command summary: verdicts as a table and maps, on disk, on the terminal and in MLflow."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from src.axes import AxisValue, axis_of
from src.cells.resolve import ResolvedCell
from src.comparison.maps import difference_maps, map_names
from src.comparison.pairing import Records, RunRecord, by_cell, load_records
from src.comparison.tables import csv_table, markdown_table, means_table, remarks, terminal_table
from src.comparison.text_table import TextTable
from src.comparison.transfer import LEGEND, markdown, transfer_tables
from src.comparison.verdicts import CellVerdict, by_pair, cell_metrics, judge, sentence, summary
from src.config import Config
from src.config.command import command, flat, text_of
from src.io import write_atomically
from src.sweep.engine import Report
from src.tracking.outbox import Deliverer, Outbox
from src.tracking.record import mask
from src.tracking.reports import CellReport, SweepReport, write_cell, write_sweep

if TYPE_CHECKING:
    from rich.console import Console


def labels_of(configs: Sequence[Config]) -> list[str]:
    """The regimes of a command's cells, in the order in which differences are taken."""
    return list(dict.fromkeys(regime.label for config in configs for regime in config.regimes))


def axes_of(configs: Sequence[Config]) -> list[dict[str, AxisValue]]:
    """The coordinates of every cell: the axes, and every further setting in which the cells differ."""
    flats = [dict(flat(config)) for config in configs]
    keys = sorted({key for one in flats for key in one})
    coordinates: list[dict[str, AxisValue]] = [config.axes() for config in configs]
    for key in keys:
        axis = axis_of(key, related=True)
        values = [one.get(key) for one in flats]
        if len({repr(value) for value in values}) < 2:
            continue
        if axis is not None and _distinguishes([own[axis] for own in coordinates], values):
            continue
        for own, value in zip(coordinates, values, strict=True):
            is_plain = isinstance(value, (int, float, str)) and not isinstance(value, bool)
            own[key] = value if is_plain else text_of(value)  # a list as it is typed: [64,64]
    return coordinates


def _distinguishes(axis: Sequence[object], values: Sequence[object]) -> bool:
    """Whether the axis differs wherever the setting does."""
    return len({repr(a) for a in axis}) == len({(repr(a), repr(v)) for a, v in zip(axis, values, strict=True)})


def read(sweep_dir: Path, cells: Sequence[ResolvedCell]) -> Records:
    """The records of a command's cells, regimes and seeds, with the coordinates of `axes_of`."""
    configs = [cell.config for cell in cells]
    hashes = [cell.hash for cell in cells]
    seeds = {seed for config in configs for seed in config.seeds}
    records = load_records(sweep_dir, cells=hashes, seeds=seeds)
    wanted = set(labels_of(configs))
    axes = dict(zip(hashes, axes_of(configs), strict=True))
    runs = tuple(replace(run, axes=axes[run.cell]) for run in records.runs if run.regime in wanted)
    failed = tuple(replace(run, axes=axes[run.cell]) for run in records.failed if run.regime in wanted)
    return Records(runs=runs, failed=failed, damaged=records.damaged)


class Session:
    """A command on a sweep: while its workers train, a thread of this process sends finished records to MLflow.

    `cells`: those of the command (of a search: the first of them).
    """

    def __init__(self, cells: Sequence[ResolvedCell]) -> None:
        self._cells = {cell.hash: cell for cell in cells}
        first, labels = cells[0], labels_of([cell.config for cell in cells])
        self._sweep_dir = first.sweep_dir
        self._n_comparisons = len(cells) * len(list(combinations(labels, 2)))
        self._deliverer = Deliverer(
            first.sweep_dir, first.config.tracking, warn=lambda text: print(text, file=sys.stderr)
        )

    def __enter__(self) -> Session:
        self._deliverer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:  # after an error the thread ends with the process, and the next command delivers the rest
            self._deliverer.stop()

    def verdict(self, cell_hash: str) -> str | None:
        """The winner of a finished cell, corrected for all comparisons that the command will make."""
        config = self._cells[cell_hash].config
        records = load_records(self._sweep_dir, cells=[cell_hash], seeds=config.seeds)
        verdicts = judge(records, labels_of([config]), n_tests=self._n_comparisons)
        return verdicts[0].winner if len(verdicts) == 1 else None

    def finish(self, cells: Sequence[ResolvedCell], report: Report) -> None:
        """Writes the `report`, with this process's command line."""
        command_line = mask(" ".join(["python -m src.sweep", *map(shlex.quote, sys.argv[1:])]))
        report(self._sweep_dir, cells, command_line)


def report(sweep_dir: Path, cells: Sequence[ResolvedCell], command_line: str) -> None:
    """Prints the table and writes table.csv, table.md, the maps and the records for MLflow."""
    records = read(sweep_dir, cells)
    labels = labels_of([cell.config for cell in cells])
    verdicts = judge(records, labels)
    streams = transfer_tables(records, labels)
    artifacts = _write(sweep_dir, verdicts, streams)
    outbox = Outbox(sweep_dir)
    report_cells(cells, records, labels, verdicts, outbox)
    note = "\n\n".join(summary(group) for group in by_pair(verdicts).values())
    counts = {"cells": float(len(cells)), "runs": float(len(records.runs)), "failed": float(len(records.failed))}
    artifacts += attached(sweep_dir)
    about = SweepReport(sweep=sweep_dir.name, note=note, command=command_line, metrics=counts, artifacts=artifacts)
    write_sweep(sweep_dir, about, outbox)
    console = terminal()
    if verdicts:
        console.print(terminal_table(verdicts, width=console.width))
        for remark in remarks(verdicts):
            console.print(remark, style="dim", markup=False)
        for group in by_pair(verdicts).values():
            console.print(summary(group))
    elif records.runs and not streams:  # one regime
        console.print(means_table(records.runs))
    for grid in streams:
        console.print(grid.terminal())
    if streams:
        console.print(LEGEND, style="dim")
    print_troubles(console, records)
    if artifacts:
        console.print(f"in {sweep_dir}: {', '.join(artifacts)}", style="dim", soft_wrap=True)


def _content(path: Path) -> bytes | None:
    """The content of a file; None if it does not exist."""
    return path.read_bytes() if path.exists() else None


def attached(sweep_dir: Path) -> list[str]:
    """Files that `make report` attached to the sweep earlier; they stay attached."""
    path = sweep_dir / "summary.json"
    before = json.loads(path.read_text())["artifacts"] if path.exists() else []
    return [name for name in before if name.startswith("report/") and (sweep_dir / name).exists()]


def _write(sweep_dir: Path, verdicts: Sequence[CellVerdict], streams: Sequence[TextTable]) -> list[str]:
    """Writes the files of the whole command; returns their names in the sweep's folder."""
    of_streams = ["transfer.md"] if streams else []
    if streams:
        write_atomically(sweep_dir / "transfer.md", markdown(streams).encode())
    if not verdicts:
        return of_streams
    table, before = csv_table(verdicts).encode(), _content(sweep_dir / "table.csv")
    maps = [sweep_dir / name for name in map_names(verdicts)]
    if table != before or not all(path.exists() for path in maps):  # drawing maps takes seconds
        difference_maps(verdicts, sweep_dir, title=sweep_dir.name)
        write_atomically(
            sweep_dir / "table.csv", table
        )  # after the maps: an equal table.csv means that they are up to date
    write_atomically(sweep_dir / "table.md", markdown_table(verdicts).encode())
    return ["table.csv", "table.md", *of_streams, *(path.name for path in maps)]


@dataclass(frozen=True)
class Place:
    """What a search adds to the report of a cell: its point and its value."""

    axes: Mapping[str, AxisValue]
    note: str
    metrics: Mapping[str, float]


def report_cells(
    cells: Sequence[ResolvedCell],
    records: Records,
    labels: Sequence[str],
    verdicts: Sequence[CellVerdict],
    outbox: Outbox,
    places: Mapping[str, Place] | None = None,
) -> None:
    """Writes cell.json, which MLflow mirrors, for every cell with a verdict or a trial. `places`: by cell hash."""
    of_cell: dict[str, list[CellVerdict]] = {}
    for one in verdicts:
        of_cell.setdefault(one.cell, []).append(one)
    runs: dict[str, list[RunRecord]] = by_cell(records.runs)
    for cell in cells:
        own = of_cell.get(cell.hash, [])
        place = (places or {}).get(cell.hash, Place({}, "", {}))
        notes = [place.note, *(sentence(one) for one in own)]
        if not any(notes):
            continue
        report = CellReport(
            sweep=cell.config.sweep,
            cell=cell.hash,
            axes={**cell.config.axes(), **place.axes},
            verdict=own[0].winner if len(own) == 1 else "; ".join(f"{v.a} - {v.b}: {v.winner}" for v in own),
            note="\n\n".join(note for note in notes if note),
            command=command(cell.config),
            metrics={**cell_metrics(runs.get(cell.hash, ()), labels), **place.metrics},
        )
        write_cell(cell.folder, report, outbox)


def terminal() -> Console:
    """Standard output at the width of the terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False, soft_wrap=False)


def print_troubles(console: Console, records: Records) -> None:
    """Prints the runs that failed or diverged, and the records that cannot be read."""
    for failed in records.failed:
        console.print(f"failed: {failed.cell}/{failed.regime}-{failed.seed}: {failed.error}", style="red", markup=False)
    for damaged in records.damaged:
        console.print(f"damaged: {damaged.path}: {damaged.problem}", style="red", markup=False)
    diverged = [run for run in records.runs if run.diverged]
    for run in diverged[:20]:
        console.print(f"diverged: {run.cell}/{run.regime}-{run.seed}: its loss is not finite", style="yellow")
    if len(diverged) > 20:
        console.print(f"diverged: {len(diverged) - 20} more", style="yellow")
