"""What a command says of its cells: the verdicts as a table and a map, on disk, on the terminal and in MLflow."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from src.analysis.figures import difference_maps, map_names
from src.analysis.pairing import Records, RunRecord, by_cell, load_records
from src.analysis.table import csv_table, markdown_table, remarks, terminal_table
from src.analysis.transfer import IN_WORDS, Grid, grids, markdown
from src.analysis.verdicts import CellVerdict, cell_metrics, contrasts, judge, sentence, summary
from src.config import Config
from src.config.command import command, flat
from src.files import write_atomically
from src.tracking.outbox import Deliverer, Outbox
from src.tracking.reports import CellReport, SweepReport, write_cell, write_sweep

if TYPE_CHECKING:
    from rich.table import Table


def labels_of(configs: Sequence[Config]) -> list[str]:
    """The regimes of a command's cells, in the order in which differences are taken."""
    return list(dict.fromkeys(regime.label for config in configs for regime in config.regimes))


SHORT = {
    "ratio": ("split.size", "split.ratio", "split.sizes"),
    "imbalance": ("split.imbalance",),
    "shift": ("split.shift.kind", "split.shift.amount", "split.shift.source"),
    "epochs": ("stopping.epochs", "stopping.max_epochs"),
    "arch": ("arch.name", "arch.model"),
    "data": ("data.name",),
}
"""The short axes and the settings that each of them can stand for."""


def axes_of(configs: Sequence[Config]) -> list[dict[str, str | float | int]]:
    """The place of every cell among the others: the short axes, and every further setting in which the cells differ."""
    flats = [dict(flat(config)) for config in configs]
    keys = sorted({key for one in flats for key in one})
    places: list[dict[str, str | float | int]] = [config.axes() for config in configs]
    for key in keys:
        said_by = next((short for short, long in SHORT.items() if key in long), None)
        values = [one.get(key) for one in flats]
        if len({repr(value) for value in values}) < 2:
            continue
        if said_by is not None and _told_apart([place[said_by] for place in places], values):
            continue
        for place, value in zip(places, values, strict=True):
            place[key] = value if isinstance(value, (int, float, str)) and not isinstance(value, bool) else str(value)
    return places


def _told_apart(short: Sequence[object], values: Sequence[object]) -> bool:
    """Whether the short axis differs wherever the setting does."""
    return len({repr(s) for s in short}) == len({(repr(s), repr(v)) for s, v in zip(short, values, strict=True)})


def read(sweep_dir: Path, cells: Sequence[str], configs: Sequence[Config]) -> Records:
    """The records of a command: its cells, its regimes and seeds, each cell placed among the others of the command."""
    seeds = {seed for config in configs for seed in config.seeds}
    records = load_records(sweep_dir, cells=cells, seeds=seeds)
    wanted = set(labels_of(configs))
    axes = dict(zip(cells, axes_of(configs), strict=True))
    runs = tuple(replace(run, axes=axes[run.cell]) for run in records.runs if run.regime in wanted)
    failed = tuple(replace(run, axes=axes[run.cell]) for run in records.failed if run.regime in wanted)
    return Records(runs=runs, failed=failed, damaged=records.damaged)


class Session:
    """One command's results as they come: MLflow is told from a thread of this process while workers train."""

    def __init__(self, sweep_dir: Path, configs: Sequence[Config], cells: Sequence[str]) -> None:
        self.sweep_dir, self.configs, self.cells = sweep_dir, list(configs), list(cells)
        self.n_comparisons = len(configs) * len(list(combinations(labels_of(configs), 2)))
        self.deliverer = Deliverer(sweep_dir, configs[0].tracking, warn=lambda text: print(text, file=sys.stderr))
        self.deliverer.start()

    def verdict(self, cell: str) -> str | None:
        """Who wins a finished cell, for the running count: corrected over all the cells the command will have."""
        config = self.configs[self.cells.index(cell)]
        records = load_records(self.sweep_dir, cells=[cell], seeds=config.seeds)
        verdicts = judge(records, labels_of([config]), n_claims=self.n_comparisons)
        return verdicts[0].winner if len(verdicts) == 1 else None

    def finish(self, words: str) -> None:
        """The table, the maps, and the last news to MLflow."""
        report(self.sweep_dir, self.cells, self.configs, words)
        self.deliverer.stop()


def report(sweep_dir: Path, cells: Sequence[str], configs: Sequence[Config], words: str) -> None:
    """Prints the table and writes table.csv, table.md, the maps and the reports that MLflow mirrors.

    `cells`: hashes, one for each of `configs`. `words`: the command line, which reproduces it all.
    """
    records = read(sweep_dir, cells, configs)
    labels = labels_of(configs)
    verdicts = judge(records, labels)
    streams = grids(records, labels)
    artifacts = _write(sweep_dir, verdicts, streams)
    outbox = Outbox(sweep_dir)
    _report_cells(sweep_dir, dict(zip(cells, configs, strict=True)), records, labels, verdicts, outbox)
    note = "\n\n".join(summary(group) for group in contrasts(verdicts).values())
    counts = {"cells": float(len(cells)), "runs": float(len(records.runs)), "failed": float(len(records.failed))}
    artifacts += _attached(sweep_dir)
    about = SweepReport(sweep=sweep_dir.name, note=note, command=words, metrics=counts, artifacts=artifacts)
    write_sweep(sweep_dir, about, outbox)
    _print(sweep_dir, verdicts, records, artifacts, streams)


def _content(path: Path) -> bytes | None:
    """What a file holds; None if there is none."""
    return path.read_bytes() if path.exists() else None


def _attached(sweep_dir: Path) -> list[str]:
    """What `make report` attached to the sweep before; it stays."""
    path = sweep_dir / "summary.json"
    before = json.loads(path.read_text())["artifacts"] if path.exists() else []
    return [name for name in before if name.startswith("report/") and (sweep_dir / name).exists()]


def _write(sweep_dir: Path, verdicts: Sequence[CellVerdict], streams: Sequence[Grid]) -> list[str]:
    """Files of the whole command, by their names in the sweep's folder."""
    of_streams = ["transfer.md"] if streams else []
    if streams:
        write_atomically(sweep_dir / "transfer.md", markdown(streams).encode())
    if not verdicts:
        return of_streams
    table, before = csv_table(verdicts).encode(), _content(sweep_dir / "table.csv")
    maps = [sweep_dir / name for name in map_names(verdicts)]
    if table != before or not all(path.exists() for path in maps):  # drawing the same maps again takes seconds
        difference_maps(verdicts, sweep_dir, title=sweep_dir.name)
        write_atomically(sweep_dir / "table.csv", table)  # after the maps: it stands for them
    write_atomically(sweep_dir / "table.md", markdown_table(verdicts).encode())
    return ["table.csv", "table.md", *of_streams, *(path.name for path in maps)]


def _report_cells(
    sweep_dir: Path,
    configs: dict[str, Config],
    records: Records,
    labels: Sequence[str],
    verdicts: Sequence[CellVerdict],
    outbox: Outbox,
) -> None:
    of_cell: dict[str, list[CellVerdict]] = {}
    for one in verdicts:
        of_cell.setdefault(one.cell, []).append(one)
    runs: dict[str, list[RunRecord]] = by_cell(records.runs)
    for cell, config in configs.items():
        said = of_cell.get(cell, [])
        if not said:
            continue
        report = CellReport(
            sweep=sweep_dir.name,
            cell=cell,
            axes=config.axes(),
            verdict=said[0].winner if len(said) == 1 else "; ".join(f"{v.a} - {v.b}: {v.winner}" for v in said),
            note="\n\n".join(sentence(one) for one in said),
            command=command(config),
            metrics=cell_metrics(runs.get(cell, ()), labels),
        )
        write_cell(sweep_dir / "cells" / cell, report, outbox)


def _print(
    sweep_dir: Path,
    verdicts: Sequence[CellVerdict],
    records: Records,
    artifacts: Sequence[str],
    streams: Sequence[Grid],
) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, soft_wrap=False)
    if verdicts:
        console.print(terminal_table(verdicts, width=console.width))
        for remark in remarks(verdicts):
            console.print(remark, style="dim", markup=False)
        for group in contrasts(verdicts).values():
            console.print(summary(group))
    for grid in streams:
        console.print(_drawn(grid))
    if streams:
        console.print(IN_WORDS, style="dim")
    for failed in records.failed:
        console.print(f"failed: {failed.cell}/{failed.regime}-{failed.seed}: {failed.error}", style="red", markup=False)
    for damaged in records.damaged:
        console.print(f"damaged: {damaged.path}: {damaged.problem}", style="red", markup=False)
    diverged = [run for run in records.runs if run.diverged]
    for run in diverged[:20]:
        console.print(f"diverged: {run.cell}/{run.regime}-{run.seed}: its loss is not finite", style="yellow")
    if len(diverged) > 20:
        console.print(f"diverged: {len(diverged) - 20} more", style="yellow")
    if artifacts:
        console.print(f"in {sweep_dir}: {', '.join(artifacts)}", style="dim", soft_wrap=True)


def _drawn(grid: Grid) -> Table:
    """A grid for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False, title=grid.title)
    for k, head in enumerate(grid.heads):
        table.add_column(head, justify="left" if k < grid.n_words else "right", overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
