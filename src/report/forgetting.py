"""Forgetting over the grid: how much accuracy on earlier data a regime loses by the end of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from src.comparison.maps import TITLES
from src.comparison.pairing import Axis, RunRecord, by_cell
from src.comparison.statistics import sign_flip_interval
from src.comparison.tables import axis_text, coordinate, varying_axes
from src.comparison.verdicts import CellVerdict
from src.report.style import Look, Picture, label, looks, panel, picture

MOST_PANELS = 12
MOST_LINES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgotten:
    """Mean forgetting of one regime in one cell, and the 95 % interval over seeds (infinite ends: too few seeds)."""

    mean: float
    low: float
    high: float
    n: int


def forgotten(runs: Sequence[RunRecord], regime: str) -> dict[str, Forgotten]:
    """Of every cell in which the regime has a defined forgetting."""
    found = {}
    for cell, some in by_cell(run for run in runs if run.regime == regime and not run.diverged).items():
        values = [value for run in some if (value := run.metric("forgetting")) is not None]
        if values:
            low, high = sign_flip_interval(values)
            found[cell] = Forgotten(mean=float(np.mean(values)), low=float(low), high=float(high), n=len(values))
    return found


def forgetting_pictures(
    verdicts: Sequence[CellVerdict], runs: Sequence[RunRecord], regime: str, folder: Path
) -> tuple[list[Picture], dict[str, Look], str]:
    """Panels of one regime, the look of every line in them, and the name of the axis that the lines are levels of.

    `verdicts`: one of each cell. Empty where the regime has no earlier data to forget.
    """
    values = forgotten(runs, regime)
    cells = {verdict.cell: verdict for verdict in verdicts if verdict.cell in values}
    if not cells:
        return [], {}, ""
    axes = varying_axes(list(cells.values()))
    names = sorted(axes, key=lambda name: -len(axes[name]))
    across = names[0] if names else None
    lines = names[1] if len(names) > 1 and len(axes[names[1]]) <= MOST_LINES else None
    rest = [name for name in names if name not in (across, lines)]
    styles = looks([axis_text(level) for level in axes[lines]] if lines else [regime], first=2)
    pictures = []
    facets = list(product(*(axes[name] for name in rest)))
    limits = _limits(list(values.values()))
    for facet in facets[:MOST_PANELS]:
        fixed = dict(zip(rest, facet, strict=True))
        here = [v for v in cells.values() if all(coordinate(v, name) == level for name, level in fixed.items())]
        if here:
            pictures.append(_panel(here, values, axes, across, lines, fixed, styles, limits, regime, folder))
    return pictures, styles if lines else {}, TITLES.get(lines, lines) if lines else ""


def _limits(values: Sequence[Forgotten]) -> tuple[float, float]:
    ends = [100 * end for value in values for end in (value.mean, value.low, value.high) if math.isfinite(end)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    pad = 0.06 * max(high - low, 1.0)
    return low - pad, high + pad


def _panel(
    here: Sequence[CellVerdict],
    values: Mapping[str, Forgotten],
    axes: Mapping[str, Sequence[Axis]],
    across: str | None,
    lines: str | None,
    fixed: Mapping[str, Axis],
    styles: Mapping[str, Look],
    limits: tuple[float, float],
    regime: str,
    folder: Path,
) -> Picture:
    figure, ax = panel()
    ax.axhline(0, color="#555555", linewidth=0.8)
    columns = list(axes[across]) if across else ["-"]
    levels = list(axes[lines]) if lines else [None]
    worst: tuple[float, str] = (-math.inf, "")
    for number, level in enumerate(levels):
        style = styles[axis_text(level) if level is not None else regime]
        some = {
            coordinate(v, across) if across else "-": values[v.cell]
            for v in here
            if lines is None or coordinate(v, lines) == level
        }
        at = [i for i, column in enumerate(columns) if column in some]
        shift = 0.5 * (number - (len(levels) - 1) / 2) / max(4, len(levels))
        x = np.array(at) + shift
        shown = [some[columns[i]] for i in at]
        mean = np.array([100 * one.mean for one in shown])
        ax.plot(x, mean, color=style.ink, linestyle=style.dash, marker=style.marker, markersize=4.5, linewidth=1.4)
        for place_x, one in zip(x, shown, strict=True):
            if math.isfinite(one.low):
                ax.plot([place_x, place_x], [100 * one.low, 100 * one.high], color=style.ink, linewidth=1.0)
        for i, one in zip(at, shown, strict=True):
            said = f"{across} {axis_text(columns[i])}" if across else "the cell"
            worst = max(
                worst, (one.mean, said + (f", {lines} {axis_text(level)}" if lines and level is not None else ""))
            )
    ax.set_xticks(range(len(columns)) if across else [], [axis_text(column) for column in columns] if across else [])
    if len(columns) > 9:
        ax.tick_params(axis="x", labelrotation=60)
    ax.set_xlim(-0.6, len(columns) - 0.4)
    ax.set_ylim(*limits)
    title = ", ".join(f"{name} {axis_text(level)}" for name, level in fixed.items()) or regime
    label(ax, title, TITLES.get(across, across) if across else "", "forgetting, points")
    alt = f"Forgetting of {regime}{f' at {title}' if fixed else ''}: largest {100 * worst[0]:.1f} points at {worst[1]}."
    name = "-".join(["forgetting", regime, *(f"{key}={axis_text(level)}" for key, level in fixed.items())])
    return picture(figure, folder, name, alt)
