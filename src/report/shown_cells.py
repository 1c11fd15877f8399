"""What the page shows of its representative cells, which takes their data, their weights and torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from src.cells.resolve import ResolvedCell, resolve
from src.claims.cell import CellRuns, MissingEvidence
from src.comparison.pairing import by_cell
from src.comparison.verdicts import CellVerdict
from src.errors import ConfigError
from src.report.curves import ShownCell, cell_plots
from src.report.drift import drift_plots
from src.report.example import Example, load_example, path_of
from src.report.landscape import landscape_plots
from src.report.plots import Canvas
from src.report.sweep import Sweep
from src.training.store.store import Store


def shown_cells(sweep: Sweep, shown: Sequence[ShownCell], canvas: Canvas) -> dict[str, Any]:
    """Curves and recall of the cells, drift and landscape of one of them, for the template."""
    runs = by_cell(sweep.records.runs)
    cells = [(one, one.verdict.cell) for one in shown]
    examples = [cell_plots(one, runs.get(cell, ()), _class_names(sweep, cell), canvas) for one, cell in cells]
    return {"examples": examples, **_example(sweep, shown, canvas)}


def _resolved(sweep: Sweep, cell: str) -> ResolvedCell:
    """A cell with its data. Raises MissingEvidence with the reason."""
    if cell not in sweep.configs:
        raise MissingEvidence("the cell's configuration cannot be read: see Runs without a result")
    try:
        return resolve(sweep.configs[cell])
    except (ConfigError, OSError) as error:
        raise MissingEvidence(f"its data cannot be read ({error})") from error


def _class_names(sweep: Sweep, cell: str) -> Sequence[str] | None:
    """None if the classes have no names, or the data are unavailable."""
    with suppress(MissingEvidence):
        return _resolved(sweep, cell).streams.class_names
    return None


def _example(sweep: Sweep, shown: Sequence[ShownCell], canvas: Canvas) -> dict[str, Any]:
    """Drift and landscape of the representative cell with the largest effect whose weights and data are available."""
    chosen = sorted(shown, key=lambda one: -abs(one.verdict.difference or 0.0))
    content: dict[str, Any] = {"example": None, "drift": None, "landscape": None, "landscape_styles": {}}
    runs, store = by_cell(sweep.records.runs), Store(sweep.folder.parent / ".stages")
    reasons = []
    for verdict, title, _ in chosen:
        try:
            cell = CellRuns.of(_resolved(sweep, verdict.cell), runs[verdict.cell], store)
            example = load_example(cell, _median_seed(verdict), sweep.labels)
        except MissingEvidence as why:
            reasons.append(str(why))
            continue
        return content | _drift_and_landscape(example, title, canvas)
    if chosen:
        content["example"] = {"title": chosen[0].title, "seed": None, "why_not": reasons[0]}
    return content


def _median_seed(verdict: CellVerdict) -> int:
    """The seed with the (lower) median difference."""
    ordered = sorted(zip(verdict.differences, verdict.seeds, strict=True))
    return ordered[(len(ordered) - 1) // 2][1]


def _drift_and_landscape(example: Example, title: str, canvas: Canvas) -> dict[str, Any]:
    about: dict[str, Any] = {"title": title, "seed": example.seed, "why_not": ""}
    paths = {name: path_of(example, name) for name in (example.staged, example.other)}
    drift = drift_plots(example, paths[example.staged], canvas)
    landscape = None
    try:
        landscape = landscape_plots(example, paths, canvas)
    except MissingEvidence as why:
        about["why_not"] = str(why)
    styles = {name: canvas.styles[name] for name in paths}
    return {"example": about, "drift": drift, "landscape": landscape, "landscape_styles": styles}
