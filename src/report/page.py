"""The report of a sweep: one self-contained HTML file, and its figures and tables as PNG and CSV beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from src.comparison.pairing import RunRecord, by_cell
from src.comparison.tables import csv_table
from src.comparison.transfer import LEGEND, transfer_tables
from src.comparison.units import name_of
from src.comparison.verdicts import CellVerdict, by_pair, default_metric, judge, summary
from src.data.sources.source import Source
from src.data.split import StreamFactory, load
from src.errors import ConfigError
from src.io import write_atomically
from src.report.boundary import boundary_picture
from src.report.curves import CellPictures, cell_pictures, cell_title, telling
from src.report.drift import drift_pictures
from src.report.example import Example, Unavailable, load_example, path_of
from src.report.forgetting import forgetting_pictures
from src.report.landscape import landscape_pictures
from src.report.maps import maps
from src.report.style import Look, looks
from src.report.sweep import Sweep, commands, counts, made_with, troubles
from src.report.tables import (
    cells_table,
    claims_table,
    costs,
    grid_table,
    ledger_csv,
    ledger_table,
    matches_table,
    too_few,
)
from src.training.store.store import Store

TEMPLATES = Path(__file__).parent / "templates"
NOTHING = "There is nothing to report yet: no run of this sweep has a result. Start it, or wait for its first runs."


def write_report(sweep: Sweep, beside: Executor | None = None) -> list[Path]:
    """Writes ``<sweep>/report/``; the paths of report.html and of the tables, figures apart.

    `beside`: where one cell is taken apart meanwhile, which takes about as long as all the rest.
    """
    folder = sweep.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):  # a figure of an earlier report that this one does not have would mislead
        old.unlink()
    metric = default_metric(sweep.records.runs)
    verdicts = judge(sweep.records, sweep.labels, metric) if len(sweep.labels) > 1 else []
    files = {}
    if verdicts:
        files["cells.csv"] = csv_table(verdicts)
    if sweep.records.runs:
        files["ledger.csv"] = ledger_csv(sweep.records.runs, sweep.configs)
    for name, text in files.items():
        write_atomically(folder / name, text.encode())
    content = _content(sweep, verdicts, metric, folder, beside) | {"files": list(files)}
    write_atomically(folder / "report.html", _render(content).encode())
    return [folder / "report.html", *(folder / name for name in files)]


def _render(content: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    inline = {name: Markup((TEMPLATES / file).read_text(encoding="utf-8")) for name, file in _INLINE.items()}
    return environment.get_template("report.html.j2").render(**content, **inline)


_INLINE = {"css": "report.css", "script": "report.js"}


# ------------------------------------------------------------------------------------------------ what stands on it


def _content(
    sweep: Sweep, verdicts: Sequence[CellVerdict], metric: str, folder: Path, beside: Executor | None
) -> dict[str, Any]:
    runs = sweep.records.runs
    styles = looks(sweep.labels)
    groups = by_pair(verdicts)
    judged = {pair: group for pair, group in groups.items() if any(v.difference is not None for v in group)}
    first = next(iter(judged.values()), [])
    apart = beside.submit(_one_apart, sweep, first, folder) if beside is not None else None
    content: dict[str, Any] = {
        "name": sweep.name,
        "title": " or ".join(sweep.labels[:2]) + "?" if len(sweep.labels) > 1 else sweep.name,
        "finished": max((str(r.provenance.get("finished_at", "")) for r in runs), default="")[:16].replace("T", " "),
        "nothing": NOTHING if not runs else _alone(runs, metric),
        "verdicts": [{"a": a, "b": b, "text": summary(group)} for (a, b), group in judged.items()],
        "counts": counts(sweep),
        "metric": name_of(metric),
        "maps": [
            (_named(a, b, n, judged), p) for (a, b), g in judged.items() for n, p in maps(g, folder, title=sweep.name)
        ],
        "cells": cells_table([v for group in judged.values() for v in group]) if judged else None,
        "too_few": too_few([v for group in judged.values() for v in group]),
        "looks": styles,
        "claims": claims_table(sweep.folder.parent / "claims" / "claims.json"),
        "troubles": troubles(sweep),
        "commands": commands(sweep, first),
        "made_with": made_with(runs),
    }
    content["boundary"] = boundary_picture(sweep.configs, runs, folder)
    content["streams"] = [(grid.title, grid_table(grid)) for grid in transfer_tables(sweep.records, sweep.labels)]
    content["streams_said"] = LEGEND
    content |= {"forgetting": _forgetting(sweep, verdicts, folder), **_ledger(sweep, first)}
    content["examples"] = _examples(sweep, first, styles, folder)
    content |= apart.result() if apart is not None else _one_apart(sweep, first, folder)
    content["sections"] = [(key, word) for key, word, present in _sections(content) if present]
    return content


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    return [
        ("map", "Map", bool(content["maps"])),
        ("boundary", "Boundary", bool(content["boundary"])),
        ("cells", "Cells", bool(content["cells"])),
        ("curves", "Curves and classes", bool(content["examples"])),
        ("forgetting", "Forgetting", bool(content["forgetting"])),
        ("streams", "Streams", bool(content["streams"])),
        ("drift", "Drift", bool(content["example"])),
        ("landscape", "Landscape", bool(content["example"])),
        ("ledger", "Fairness", bool(content["ledger"])),
        ("claims", "Claims", bool(content["claims"])),
        ("missing", "Without a result", bool(content["troubles"])),
        ("reproduce", "Reproduce", bool(content["commands"] or content["made_with"])),
    ]


def _named(a: str, b: str, name: str, judged: Mapping[Any, Any]) -> str:
    return name if len(judged) == 1 else f"{a} − {b}, {name}"


def _alone(runs: Sequence[RunRecord], metric: str) -> str:
    """What can be said without a second regime at the same seeds."""
    values = [value for run in runs if (value := run.metric(metric)) is not None]
    mean = f" Their mean {name_of(metric)} is {sum(values) / len(values):.4g}." if values else ""
    return f"Nothing can be compared yet: no seed finished in two regimes. {len(runs)} runs have a result.{mean}"


def _forgetting(sweep: Sweep, verdicts: Sequence[CellVerdict], folder: Path) -> list[tuple[Any, ...]]:
    one_each = list({verdict.cell: verdict for verdict in verdicts}.values())
    found = []
    for regime in sweep.labels:
        pictures, lines, axis = forgetting_pictures(one_each, sweep.records.runs, regime, folder)
        if pictures:
            found.append((regime, pictures, lines, axis))
    return found


def _ledger(sweep: Sweep, first: Sequence[CellVerdict]) -> dict[str, Any]:
    base = "combined" if "combined" in sweep.labels else next(iter(sweep.labels), "")
    notes = {one.stopping.budgets_match_in: one.stopping.match_note for one in sweep.configs.values()}
    rows = costs(sweep.records.runs, sweep.configs, [base, *(name for name in sweep.labels if name != base)])
    return {
        "ledger": ledger_table(rows, base) if rows else None,
        "matches_said": [notes[match] for match in dict.fromkeys(row.match for row in rows) if match in notes],
        "matches": matches_table(first, sweep.configs) if first else None,
    }


# ------------------------------------------------------------------------------------------------ telling cells


class _Data:
    """The data of a sweep's cells, each source read once."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.loaded: dict[object, Source] = {}

    def of(self, cell: str) -> StreamFactory:
        """Raises Unavailable with why they cannot be had."""
        if cell not in self.sweep.configs:
            raise Unavailable("the cell's configuration is not on disk")
        try:
            config = self.sweep.configs[cell]
            return load(config.data, config.split, Path(config.multirun) / ".cache", self.loaded)
        except (ConfigError, OSError) as error:
            raise Unavailable(f"its data cannot be read ({error})") from error

    def class_names(self, cell: str) -> Sequence[str] | None:
        """None where the classes have no names, or the data are not there."""
        try:
            return self.of(cell).class_names
        except Unavailable:
            return None


def _examples(
    sweep: Sweep, first: Sequence[CellVerdict], styles: Mapping[str, Look], folder: Path
) -> list[CellPictures]:
    """Curves and bars of the telling cells."""
    runs, data = by_cell(sweep.records.runs), _Data(sweep)
    return [
        cell_pictures(
            verdict, why, cell_title(verdict, first), runs.get(verdict.cell, ()), styles,
            data.class_names(verdict.cell), folder,
        )
        for verdict, why in telling(first)
    ]  # fmt: skip


def _one_apart(sweep: Sweep, first: Sequence[CellVerdict], folder: Path) -> dict[str, Any]:
    """Drift and landscape of the largest effect among the telling cells whose weights and data are there."""
    chosen = sorted((verdict for verdict, _ in telling(first)), key=lambda v: -abs(v.difference or 0.0))
    content: dict[str, Any] = {"example": None, "drift": None, "landscape": None, "landscape_looks": {}}
    styles, runs, data = looks(sweep.labels), by_cell(sweep.records.runs), _Data(sweep)
    reason = ""
    for verdict in chosen:
        try:
            factory = data.of(verdict.cell)
            example = load_example(
                sweep.configs[verdict.cell], factory, verdict.cell, _typical_seed(verdict), runs[verdict.cell],
                sweep.labels, Store(sweep.folder.parent / ".stages"),
            )  # fmt: skip
        except Unavailable as why_not:
            reason = reason or str(why_not)
            continue
        return content | _taken_apart(example, cell_title(verdict, first), runs[verdict.cell], styles, folder)
    if chosen:
        title = cell_title(chosen[0], first)
        content["example"] = {"title": title, "seed": None, "why_no_drift": reason, "why_no_landscape": reason}
    return content


def _typical_seed(verdict: CellVerdict) -> int:
    """The seed whose difference is the median one (the lower, of two)."""
    ordered = sorted(zip(verdict.differences, verdict.seeds, strict=True))
    return ordered[(len(ordered) - 1) // 2][1]


def _taken_apart(
    example: Example, title: str, runs: Sequence[RunRecord], styles: Mapping[str, Look], folder: Path
) -> dict[str, Any]:
    about: dict[str, Any] = {"title": title, "seed": example.seed, "why_no_drift": "", "why_no_landscape": ""}
    paths = {name: path_of(example, name) for name in (example.staged, example.other)}
    drift = drift_pictures(example, runs, paths[example.staged], styles, folder)
    landscape = None
    try:
        landscape = landscape_pictures(example, paths, styles, folder)
    except Unavailable as why:
        about["why_no_landscape"] = str(why)
    shown = {name: styles[name] for name in (example.staged, example.other)}
    return {"example": about, "drift": drift, "landscape": landscape, "landscape_looks": shown}
