"""What a command says of its cells: the verdicts as a table and a map, on disk, on the terminal and in MLflow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from src.analysis.figures import difference_maps
from src.analysis.pairing import Records, RunRecord, by_cell, load_records
from src.analysis.table import csv_table, markdown_table, remarks, terminal_table
from src.analysis.verdicts import CellVerdict, cell_metrics, contrasts, judge, sentence, summary
from src.config import Config
from src.config.command import command
from src.tracking.outbox import Outbox
from src.tracking.reports import CellReport, SweepReport, write_cell, write_sweep
from src.training.store import write_atomically


def labels_of(configs: Sequence[Config]) -> list[str]:
    """The regimes of a command's cells, in the order in which differences are taken."""
    return list(dict.fromkeys(regime.label for config in configs for regime in config.regimes))


def read(sweep_dir: Path, cells: Sequence[str], configs: Sequence[Config]) -> Records:
    """The records of a command: its cells, its regimes and seeds."""
    seeds = {seed for config in configs for seed in config.seeds}
    records = load_records(sweep_dir, cells=cells, seeds=seeds)
    wanted = set(labels_of(configs))
    runs = tuple(run for run in records.runs if run.regime in wanted)
    return Records(runs=runs, failed=records.failed, damaged=records.damaged)


def report(sweep_dir: Path, cells: Sequence[str], configs: Sequence[Config], words: str) -> None:
    """Prints the table and writes table.csv, table.md, the maps and the reports that MLflow mirrors.

    `cells`: hashes, one for each of `configs`. `words`: the command line, which reproduces it all.
    """
    records = read(sweep_dir, cells, configs)
    labels = labels_of(configs)
    verdicts = judge(records, labels)
    artifacts = _write(sweep_dir, verdicts)
    outbox = Outbox(sweep_dir)
    _report_cells(sweep_dir, dict(zip(cells, configs, strict=True)), records, labels, verdicts, outbox)
    note = "\n\n".join(summary(group) for group in contrasts(verdicts).values())
    counts = {"cells": float(len(cells)), "runs": float(len(records.runs)), "failed": float(len(records.failed))}
    write_sweep(
        sweep_dir,
        SweepReport(sweep=sweep_dir.name, note=note, command=words, metrics=counts, artifacts=artifacts),
    )
    outbox.put(sweep_dir)
    _print(sweep_dir, verdicts, records, artifacts)


def _write(sweep_dir: Path, verdicts: Sequence[CellVerdict]) -> list[str]:
    """Files of the whole command, by their names in the sweep's folder."""
    if not verdicts:
        return []
    write_atomically(sweep_dir / "table.csv", csv_table(verdicts).encode())
    write_atomically(sweep_dir / "table.md", markdown_table(verdicts).encode())
    maps = difference_maps(verdicts, sweep_dir, title=sweep_dir.name)
    return ["table.csv", "table.md", *(path.name for path in maps)]


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
        folder = sweep_dir / "cells" / cell
        before = (folder / "cell.json").read_bytes() if (folder / "cell.json").exists() else None
        report = CellReport(
            sweep=sweep_dir.name,
            cell=cell,
            axes=config.axes(),
            verdict=said[0].winner if len(said) == 1 else "; ".join(f"{v.a} - {v.b}: {v.winner}" for v in said),
            note="\n\n".join(sentence(one) for one in said),
            command=command(config),
            metrics=cell_metrics(runs.get(cell, ()), labels),
        )
        if write_cell(folder, report).read_bytes() != before:
            outbox.put(folder)


def _print(sweep_dir: Path, verdicts: Sequence[CellVerdict], records: Records, artifacts: Sequence[str]) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, soft_wrap=False)
    if verdicts:
        console.print(terminal_table(verdicts, width=console.width))
        for remark in remarks(verdicts):
            console.print(remark, style="dim")
        for group in contrasts(verdicts).values():
            console.print(summary(group))
    for failed in records.failed:
        console.print(f"failed: {failed.cell}/{failed.regime}-{failed.seed}: {failed.error}", style="red")
    for damaged in records.damaged:
        console.print(f"damaged: {damaged.path}: {damaged.problem}", style="red")
    diverged = [run for run in records.runs if run.diverged]
    for run in diverged[:20]:
        console.print(f"diverged: {run.cell}/{run.regime}-{run.seed}: its loss is not finite", style="yellow")
    if len(diverged) > 20:
        console.print(f"diverged: {len(diverged) - 20} more", style="yellow")
    if artifacts:
        console.print(f"in {sweep_dir}: {', '.join(artifacts)}", style="dim")
