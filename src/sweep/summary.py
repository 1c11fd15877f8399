"""End-of-command summary: verdicts as a table and maps, on disk, on the terminal and in MLflow."""

from __future__ import annotations

import re
import shlex
import sys
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from src import terminal
from src.axes import AxisValue, axis_of
from src.cells.resolve import ResolvedCell
from src.comparison.families import by_comparison, pairs_of, read_families
from src.comparison.maps import map_names
from src.comparison.pairing import Records, by_cell, load_records
from src.comparison.sentences import sentence, sentence_elsewhere, summary
from src.comparison.tables import csv_table, means_table, remarks, sweep_table, terminal_table
from src.comparison.text_table import TextTable
from src.comparison.transfer import LEGEND, classes_table, markdown, transfer_tables
from src.comparison.tuning import (
    Tuned,
    sentence_of,
    tuning_csv,
    tuning_metrics,
    tuning_of,
    tuning_table,
    with_remarks,
)
from src.comparison.verdicts import CellVerdict, Rules, by_pair, judge, judge_test_sets
from src.config import Config
from src.config.command import command, flat, text_of
from src.config.tune import OFF
from src.io import WRITERS, read_json_or, write_atomically
from src.progress import tracked
from src.sweep.drawing import MapDrawing
from src.sweep.engine import Report
from src.sweep.grid.cells import labels_of
from src.sweep.mlflow_columns import cell_means, cell_metrics, cell_tags, comparison_of, sweep_metrics
from src.sweep.summary_notes import next_commands, notes_of
from src.tracking.outbox import Deliverer, Outbox
from src.tracking.reports import CellReport, SweepReport, write_cell, write_sweep
from src.urls import without_secrets

if TYPE_CHECKING:
    from rich.console import Console


MOST_ROWS = 60


def axes_of(configs: Sequence[Config]) -> list[dict[str, AxisValue]]:
    """The coordinates of every cell: the axes, and every further setting in which the cells differ."""
    flats = [dict(flat(config)) for config in configs]
    coordinates: list[dict[str, AxisValue]] = [config.axes() for config in configs]
    if any("tune" in own for own in coordinates):  # results of other cells lack this axis
        coordinates = [{**own, "tune": config.tune.name} for own, config in zip(coordinates, configs, strict=True)]
    for key in sorted({key for one in flats for key in one}):
        axis = axis_of(key, related=True)
        values = [one.get(key) for one in flats]
        given = {repr(one[key]) for one in flats if key in one}
        if len({repr(value) for value in values}) < 2 or (len(given) < 2 and not all(key in one for one in flats)):
            continue  # what only one choice of a group has follows from the choice
        if axis is not None and _distinguishes([own.get(axis) for own in coordinates], values):
            continue
        for own, value in zip(coordinates, values, strict=True):
            is_plain = isinstance(value, (int, float, str)) and not isinstance(value, bool)
            own[key] = value if is_plain and value is not None else text_of(value)  # a list as it is typed: [64,64]
    return coordinates


def _distinguishes(axis: Sequence[object], values: Sequence[object]) -> bool:
    """Whether the axis differs wherever the setting does."""
    return len({repr(a) for a in axis}) == len({(repr(a), repr(v)) for a, v in zip(axis, values, strict=True)})


def read_records(sweep_dir: Path, cells: Sequence[ResolvedCell]) -> Records:
    """The records of a command's cells, regimes and seeds, with the coordinates of `axes_of`."""
    configs, hashes = [cell.config for cell in cells], [cell.hash for cell in cells]
    records = load_records(sweep_dir, cells=hashes, seeds={seed for config in configs for seed in config.seeds})
    wanted, axes = labels_of(configs), dict(zip(hashes, axes_of(configs), strict=True))
    runs = tuple(replace(run, axes=axes[run.cell]) for run in records.runs if run.regime in wanted)
    failed = tuple(replace(run, axes=axes[run.cell]) for run in records.failed if run.regime in wanted)
    return replace(records, runs=runs, failed=failed)


def judge_cells(sweep_dir: Path, cells: Sequence[ResolvedCell], records: Records) -> list[CellVerdict]:
    """The verdicts of a command's cells on every test set, each corrected over the family in which it was declared."""
    configs, own = [cell.config for cell in cells], {cell.hash for cell in cells}
    families = [family for family in read_families(sweep_dir) if any(cell in own for cell, *_ in family.comparisons)]
    others = {cell for family in families for cell, *_ in family.comparisons} - own
    if others:
        seeds = {seed for family in families for seed in family.seeds}
        elsewhere = load_records(sweep_dir, cells=others, seeds=seeds)
        records = replace(records, runs=(*records.runs, *elsewhere.runs), failed=(*records.failed, *elsewhere.failed))
    rules = {"baseline": configs[0].baseline, "undeclared": Rules(margin=configs[0].margin)}
    return judge_test_sets(records, labels_of(configs), families=families, cells=own, **rules)


@contextmanager
def session(cells: Sequence[ResolvedCell]) -> Iterator[Session]:
    """A command on a sweep: a thread sends finished records to MLflow while its workers train the cells.

    `cells`: those of the command (of a search: the first of them).
    """
    expects = any(cell.unwritten_runs() for cell in cells)  # the workers load their modules meanwhile
    with Deliverer(cells[0].sweep_dir, cells[0].config.tracking, expects=expects):
        yield Session(cells)


class Session:
    """The verdicts of a command, as cells finish and at its end."""

    def __init__(self, cells: Sequence[ResolvedCell]) -> None:
        self._cells = {cell.hash: cell for cell in cells}
        self._sweep_dir = cells[0].sweep_dir
        self._families = by_comparison(read_families(self._sweep_dir))
        labels, baseline = labels_of([cell.config for cell in cells]), cells[0].config.baseline
        self._n_comparisons = len(cells) * len(pairs_of(labels, baseline))

    def verdict(self, cell_hash: str) -> str | None:
        """The winner of a finished cell, corrected for all comparisons that the command will make."""
        config = self._cells[cell_hash].config
        records = load_records(self._sweep_dir, cells=[cell_hash], seeds=config.seeds)
        labels = labels_of([config])
        families = [self._families.get((cell_hash, a, b)) for a, b in pairs_of(labels, config.baseline)]
        n_tests = max((len(own.comparisons) for own in families if own), default=self._n_comparisons)
        verdicts = judge(records, labels, baseline=config.baseline, undeclared=Rules(n_tests=n_tests))
        return verdicts[0].winner if len(verdicts) == 1 else None

    def finish(self, cells: Sequence[ResolvedCell], report: Report) -> None:
        """Writes the `report`, with this process's command line."""
        report(self._sweep_dir, cells, shlex.join(["python", "-m", "src.sweep", *map(without_secrets, sys.argv[1:])]))


def report(sweep_dir: Path, cells: Sequence[ResolvedCell], command_line: str) -> None:
    """Prints the table, and writes table.csv, table.md, the maps and the records for MLflow."""
    records = read_records(sweep_dir, cells)
    labels = labels_of([cell.config for cell in cells])
    tuning = tuning_of(sweep_dir, [cell.hash for cell in cells], labels)
    verdicts = with_remarks(judge_cells(sweep_dir, cells, records), tuning)
    notes = notes_of(cells, records.runs)
    results = CommandResults(
        records=records, labels=labels, verdicts=verdicts, n_cells=len(cells), notes=notes, tuning=tuning
    )
    with publication(sweep_dir, results, command_line) as outbox:
        report_cells(cells, records, verdicts, outbox)
    for line in next_commands(cells, verdicts, records.runs):
        stdout_console().print(line, style="dim", soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class CommandResults:
    """The results of a command on a sweep."""

    records: Records
    labels: Sequence[str]
    verdicts: Sequence[CellVerdict]
    n_cells: int
    notes: Sequence[str] = ()
    """Lines about the classes of the data sets and about checkpoints."""
    tuning: Mapping[tuple[str, str], Tuned] = field(default_factory=dict)
    """By cell and regime."""


@contextmanager
def publication(sweep_dir: Path, results: CommandResults, command_line: str) -> Iterator[Outbox]:
    """Prints the table; after the block, which reports the cells, writes the files and the record of the sweep."""
    records, verdicts = results.records, results.verdicts
    tables = (tuning_table(verdicts, results.tuning), classes_table(records.runs, results.labels))
    further = [table for table in tables if table is not None]
    streams = transfer_tables(records, results.labels)
    drawing = MapDrawing(verdicts, sweep_dir, _tables(results, further))
    console = stdout_console()
    if verdicts:
        console.print(terminal_table(verdicts, width=console.width))
        for remark in remarks(verdicts):
            console.print(remark, style="dim")
        for group in by_pair(verdicts).values():
            console.print(summary(group))
    elif records.runs and not streams:  # one regime
        console.print(means_table(records.runs))
    for table in further:
        console.print(replace(table, rows=table.rows[:MOST_ROWS]).fitting(console.width).terminal())
    for grid in streams:
        console.print(grid.fitting(console.width).terminal())
    for line in results.notes:
        console.print(line, style="dim")
    if streams:
        console.print(LEGEND, style="dim")
    print_troubles(console, records)
    sys.stdout.flush()  # the rest takes longer than the table
    outbox = Outbox(sweep_dir)
    yield outbox
    drawing.finish()
    artifacts = _write(sweep_dir, results, streams)
    note = "\n\n".join(summary(group) for group in by_pair(verdicts).values())
    counts = {"cells": float(results.n_cells), "runs": float(len(records.runs)), "failed": float(len(records.failed))}
    artifacts += attached(sweep_dir)
    about = SweepReport(
        sweep=sweep_dir.name,
        note=note,
        command=command_line,
        metrics=counts | sweep_metrics(verdicts),
        artifacts=artifacts,
        comparison=comparison_of(verdicts) if verdicts else None,
    )
    write_sweep(sweep_dir, about, outbox)
    if artifacts:  # of an earlier report its page alone: it has dozens of plots
        named = [name for name in artifacts if not name.startswith("report/") or name.endswith(".html")]
        console.print(f"in {sweep_dir}: {', '.join(named)}", style="dim", soft_wrap=True)


def attached(sweep_dir: Path) -> list[str]:
    """Files that `make report` attached to the sweep earlier; they stay attached."""
    before = read_json_or(sweep_dir / "summary.json").get("artifacts", [])
    return [name for name in before if re.fullmatch(r"report/[^/]+", name) and (sweep_dir / name).is_file()]


def _tables(results: CommandResults, further: Sequence[TextTable]) -> dict[str, bytes]:
    """The content of table.md and table.csv; empty without verdicts. `further`: tables below that of the verdicts."""
    if not (verdicts := results.verdicts):
        return {}
    parts = [table.markdown() for table in (sweep_table(verdicts), *further)]
    return {"table.md": "\n".join([*parts, *results.notes]).encode(), "table.csv": csv_table(verdicts).encode()}


def _write(sweep_dir: Path, results: CommandResults, streams: Sequence[TextTable]) -> list[str]:
    """Writes the further files of the whole command; returns the names of all, with those of a `MapDrawing`."""
    verdicts, tuning = results.verdicts, results.tuning
    of_streams = ["transfer.md"] if streams else []
    if streams:
        write_atomically(sweep_dir / "transfer.md", markdown(streams))
    if not verdicts:
        return of_streams
    if tuning:
        write_atomically(sweep_dir / "tuning.csv", tuning_csv(tuning))
    return ["table.csv", "table.md", *of_streams, *(["tuning.csv"] if tuning else []), *map_names(verdicts)]


@dataclass(frozen=True)
class TrialInfo:
    """What a search adds to the report of a cell: the settings and the value of its trial."""

    axes: Mapping[str, AxisValue] = field(default_factory=dict)
    note: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


def report_cells(
    cells: Sequence[ResolvedCell],
    records: Records,
    verdicts: Sequence[CellVerdict],
    outbox: Outbox,
    trials: Mapping[str, TrialInfo] | None = None,
) -> None:
    """Writes cell.json, which MLflow mirrors, for every cell with a verdict or a trial. `trials`: by cell hash."""
    labels = labels_of([cell.config for cell in cells])
    runs, further = by_cell(records.runs), {verdict.cell: verdict.axes for verdict in verdicts}
    verdicts_of: defaultdict[str, list[CellVerdict]] = defaultdict(list)
    for verdict in verdicts:
        verdicts_of[verdict.cell].append(verdict)
    pending: deque[Future[Path]] = deque()
    with ThreadPoolExecutor(WRITERS) as writers:
        for cell in tracked(cells, "written: cells", len(cells)):
            own = verdicts_of[cell.hash]
            trial = (trials or {}).get(cell.hash, TrialInfo())
            notes = [note for note in (trial.note, *map(sentence, own), *map(sentence_elsewhere, own)) if note]
            if not notes:
                continue
            tuned = list(tuning_of(cell.sweep_dir, [cell.hash], labels).values())
            notes += [_tuning_note(cell, tuned)] if tuned else []
            notes += [f"Classes: {cell.classes}."] if cell.classes else []
            report = CellReport(
                sweep=cell.config.sweep,
                cell=cell.hash,
                axes={**cell.config.axes(), **further.get(cell.hash, {}), **trial.axes},
                verdict=winners(own),
                note="\n\n".join(notes),
                command=command(cell.config),
                metrics={
                    **cell_metrics(runs.get(cell.hash, ()), labels, own),
                    **cell_means(own),
                    **trial.metrics,
                    **tuning_metrics(tuned),
                },
                tags=cell_tags(own),
            )
            pending.append(writers.submit(write_cell, cell.folder, report, outbox))
            if len(pending) == WRITERS:
                pending.popleft().result()
        for written in pending:
            written.result()


def winners(verdicts: Sequence[CellVerdict]) -> str:
    """The winner of a cell, for each pair of regimes if it has several."""
    if len(verdicts) == 1:
        return verdicts[0].winner
    return "; ".join(f"{verdict.a} - {verdict.b}: {verdict.winner}" for verdict in verdicts)


def _tuning_note(cell: ResolvedCell, tuned: Sequence[Tuned]) -> str:
    """What was chosen, and the command of the comparison with these values, without the tuning."""
    same = command(replace(cell.config, tune=OFF, regimes=cell.regimes_as_trained))
    return "\n\n".join([*(f"Tuned {sentence_of(one)}." for one in tuned), f"With these values:\n```\n{same}\n```"])


def stdout_console() -> Console:
    """Standard output at the width of the terminal."""
    return terminal.console(width=120)


def print_troubles(console: Console, records: Records) -> None:
    """Prints the runs that failed or diverged, and the records that cannot be read."""
    for failed in records.failed:
        console.print(f"failed: {failed.cell}/{failed.regime}-{failed.seed}: {failed.error}", style="red")
    for damaged in records.damaged:
        console.print(f"damaged: {damaged.path}: {damaged.problem}", style="red")
    diverged = [run for run in records.runs if run.diverged]
    for run in diverged[:20]:
        console.print(f"diverged: {run.cell}/{run.regime}-{run.seed}: its loss is not finite", style="yellow")
    if len(diverged) > 20:
        console.print(f"diverged: {len(diverged) - 20} more", style="yellow")
