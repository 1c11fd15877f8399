"""The report of a sweep: one self-contained HTML page, with its plots as PNG and its tables as CSV in the same
folder."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.comparison.families import read_families
from src.comparison.pairing import Records, RunRecord
from src.comparison.sentences import summary
from src.comparison.tables import csv_table, sweep_table
from src.comparison.transfer import LEGEND, transfer_tables
from src.comparison.tuning import Tuned, tuning_of, with_remarks
from src.comparison.units import name_of
from src.comparison.verdicts import CellVerdict, by_pair, default_metric, judge_test_sets
from src.config.plugins import catalogs
from src.io import write_atomically
from src.report.boundary import boundary_plot
from src.report.curves import ShownCell, representative
from src.report.forgetting import forgetting_plots
from src.report.ledger import costs, ledger_csv, ledger_table, matches_table, run_costs
from src.report.maps import MOST_CELLS, maps
from src.report.plots import PAPER, Canvas, line_styles
from src.report.sweep import Sweep, commands, counts, made_with, problems_by_kind
from src.report.tables import cell_notes, cells_table, claims_table, largest, levels_table, page_table
from src.report.tuning import tuning_section
from src.terminal import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from pandas import DataFrame

TEMPLATES = Path(__file__).parent / "templates"
NOTHING = "There is nothing to report yet: no run of this sweep has a result. Start it, or wait for its first runs."


def write_report(
    sweep: Sweep, executor: Executor | None = None, *, paper: bool = False, most_cells: int = MOST_CELLS
) -> list[Path]:
    """Writes ``<sweep>/report/``; returns the paths of report.html and of the tables.

    `paper`: also writes every plot as PDF and SVG, and the table of the cells in LaTeX, into its folder `PAPER`.
    `executor`: shows the representative cells meanwhile, which takes about as long as everything else. `most_cells`: of
    a larger grid the page shows averages over axes and the cells with the largest differences, and says so.
    """
    folder = sweep.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    before = {path: path.stat().st_ino for path in folder.glob("*.png")}
    shutil.rmtree(folder / PAPER, ignore_errors=True)
    if paper:
        (folder / PAPER).mkdir()
    families, tuning = read_families(sweep.folder), tuning_of(sweep.folder, sweep.configs, sweep.labels)
    verdicts = judge_test_sets(sweep.records, sweep.labels, baseline=sweep.baseline, families=families)
    verdicts = with_remarks(verdicts, tuning)
    files = {}
    if verdicts:
        files["cells.csv"] = csv_table(verdicts)
        if paper:
            write_atomically(folder / PAPER / "cells.tex", sweep_table(verdicts).latex())
    spent = run_costs(sweep.records.runs, sweep.configs)
    if len(spent):
        files["ledger.csv"] = ledger_csv(spent)
    for name, text in files.items():
        write_atomically(folder / name, text.encode())
    content = _content(sweep, verdicts, tuning, spent, folder, executor, most_cells) | {"files": list(files)}
    html = page_environment().get_template("report.html.j2").render(content)
    write_atomically(folder / "report.html", html.encode())
    for path, inode in before.items():
        if path.stat().st_ino == inode:  # a plot that only an earlier report has would mislead
            path.unlink()
    return [folder / "report.html", *(folder / name for name in files)]


def page_environment(*folders: Path) -> Environment:
    """The environment of a page's template, which shows every text escaped and `printable`.

    `folders`: of templates, in addition to those of the report.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    def shown(value: object) -> object:
        return printable(value) if type(value) is str else value

    loader = FileSystemLoader([*folders, TEMPLATES])
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=shown)


def _load_plugins(plugins: set[tuple[str, ...]]) -> None:
    """Makes the variants of these plugins known to this process."""
    for own in plugins:
        catalogs(own)


def _content(
    sweep: Sweep,
    verdicts: Sequence[CellVerdict],
    tuning: Mapping[tuple[str, str], Tuned],
    spent: DataFrame,
    folder: Path,
    executor: Executor | None,
    most_cells: int,
) -> dict[str, Any]:
    """Everything that the template shows."""
    runs, canvas = sweep.records.runs, Canvas(folder=folder, styles=line_styles(sweep.labels))
    metric = default_metric(runs)
    judged = {pair: group for pair, group in by_pair(verdicts).items() if any(v.difference is not None for v in group)}
    first, all_judged = next(iter(judged.values()), []), [v for group in judged.values() for v in group]
    shown = representative(first)
    few = _without_others(sweep, {one.verdict.cell for one in shown})
    if executor is not None:
        executor.submit(_load_plugins, {config.plugins for config in few.configs.values()})  # before it unpickles them
    pending = executor.submit(_shown_cells, few, shown, canvas) if executor is not None else None
    question = " or ".join(sweep.labels[:2]) + "?"
    content: dict[str, Any] = {
        "name": sweep.name,
        "title": f"{question[0].upper()}{question[1:]}" if len(sweep.labels) > 1 else sweep.name,
        "finished": max((str(r.provenance.get("finished_at", "")) for r in runs), default="")[:16].replace("T", " "),
        "nothing": _without_comparison(runs, metric) if runs else NOTHING,
        "verdicts": [{"a": a, "b": b, "text": summary(group)} for (a, b), group in judged.items()],
        "counts": counts(sweep),
        "metric": name_of(metric),
        "maps": [
            (name if len(judged) == 1 else f"{a} − {b}, {name}", plot)
            for (a, b), group in judged.items()
            for name, plot in maps(group, folder, title=sweep.name, most_cells=most_cells)
        ],
        "levels": levels_table(list(judged.values())) if len(first) > most_cells else None,
        "left_out": _left_out(sweep, len({own.cell for own in all_judged}), most_cells),
        "cells": cells_table(largest(all_judged, most_cells)) if judged else None,
        "tuning": tuning_section(verdicts, tuning, canvas),
        "cell_notes": cell_notes(all_judged),
        "line_styles": canvas.styles,
        "boundary": boundary_plot(sweep.configs, runs, folder),
        "streams": [(table.title, page_table(table)) for table in transfer_tables(sweep.records, sweep.labels)],
        "streams_explained": LEGEND,
        "forgetting": _forgetting(sweep, verdicts, folder),
        "claims": claims_table(sweep.folder.parent / "claims" / "claims.json"),
        "problems_by_kind": problems_by_kind(sweep),
        "commands": commands(sweep, first),
        "made_with": made_with(runs),
        **_ledger(sweep, first, spent),
    }
    return content | (pending.result() if pending is not None else _shown_cells(few, shown, canvas))


def _without_others(sweep: Sweep, cells: Collection[str]) -> Sweep:
    """The sweep with some of its cells alone, which is soon sent to another process."""
    configs = {cell: config for cell, config in sweep.configs.items() if cell in cells}
    runs = tuple(run for run in sweep.records.runs if run.cell in cells)
    return replace(sweep, configs=configs, records=Records(runs=runs))


def _shown_cells(sweep: Sweep, shown: Sequence[ShownCell], canvas: Canvas) -> dict[str, Any]:
    from src.report.shown_cells import shown_cells  # loads torch and Lightning, which nothing else of a report needs

    return shown_cells(sweep, shown, canvas)


def _left_out(sweep: Sweep, n_cells: int, most_cells: int) -> str:
    """What the page lacks of a large grid, and how to get it; empty if it shows all cells."""
    if n_cells <= most_cells:
        return ""
    show = shlex.join(["python", "-m", "src.report", f"sweep={sweep.name}", f"multirun={sweep.folder.parent}"])
    return (
        f"This page shows the {most_cells:,} cells with the largest differences of {n_cells:,}, and no map of single "
        f"cells where there is one of averages. cells.csv next to it has all; {show} most_cells={n_cells} shows all "
        "here."
    )


def _without_comparison(runs: Sequence[RunRecord], metric: str) -> str:
    """The summary of runs that no seed shares between two regimes."""
    values = [value for run in runs if (value := run.metric(metric)) is not None]
    mean = f" Their mean {name_of(metric)} is {sum(values) / len(values):.4g}." if values else ""
    return f"Nothing can be compared yet: no seed finished in two regimes. {len(runs)} runs have a result.{mean}"


def _forgetting(sweep: Sweep, verdicts: Sequence[CellVerdict], folder: Path) -> list[tuple[Any, ...]]:
    found = [(regime, *forgetting_plots(verdicts, sweep.records.runs, regime, folder)) for regime in sweep.labels]
    return [(regime, plots, lines, axis) for regime, plots, lines, axis in found if plots]


def _ledger(sweep: Sweep, first: Sequence[CellVerdict], spent: DataFrame) -> dict[str, Any]:
    labels = sorted(sweep.labels, key=lambda name: name != "combined")  # ratios are to combined, if it is there
    notes = {config.stopping.budgets_match_in: config.stopping.match_note for config in sweep.configs.values()}
    found = costs(spent, labels) if len(spent) else None
    return {
        "ledger": None if found is None else ledger_table(found),
        "match_notes": [] if found is None else [notes[m] for m in found.index.unique("match") if m in notes],
        "matches": matches_table(first, sweep.configs) if first else None,
    }
