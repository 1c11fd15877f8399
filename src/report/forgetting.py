"""Forgetting over the grid: the accuracy on earlier data that a regime loses by the end of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from src.axes import AxisValue, axis_label, axis_text
from src.comparison.pairing import RunRecord, by_cell
from src.comparison.statistics import sign_flip_interval
from src.comparison.tables import coordinate, varying_axes
from src.comparison.verdicts import CellVerdict
from src.report.plots import LineStyle, Plot, line_styles, panel, save_plot

MOST_PANELS = 12
MOST_LINES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ForgettingEstimate:
    """Mean forgetting of one regime in one cell, and the 95 % interval over seeds (infinite ends: too few seeds)."""

    mean: float
    low: float
    high: float
    n: int


def forgetting_by_cell(runs: Sequence[RunRecord], regime: str) -> dict[str, ForgettingEstimate]:
    """Cell -> estimate, for the cells in which the regime's forgetting is defined."""
    found = {}
    for cell, some in by_cell(run for run in runs if run.regime == regime and not run.diverged).items():
        values = [value for run in some if (value := run.metric("forgetting")) is not None]
        if values:
            low, high = sign_flip_interval(values)
            found[cell] = ForgettingEstimate(
                mean=float(np.mean(values)), low=float(low), high=float(high), n=len(values)
            )
    return found


def forgetting_plots(
    verdicts: Sequence[CellVerdict], runs: Sequence[RunRecord], regime: str, folder: Path
) -> tuple[list[Plot], dict[str, LineStyle], str]:
    """The panels of one regime, the style of every line, and the title of the axis whose levels are the lines.

    `verdicts`: one for each cell. Empty if the regime has no earlier data to forget.
    """
    values = forgetting_by_cell(runs, regime)
    cells = {verdict.cell: verdict for verdict in verdicts if verdict.cell in values}
    if not cells:
        return [], {}, ""
    axes = varying_axes(list(cells.values()))
    names = sorted(axes, key=lambda name: -len(axes[name]))
    across = names[0] if names else None
    lines = names[1] if len(names) > 1 and len(axes[names[1]]) <= MOST_LINES else None
    rest = [name for name in names if name not in (across, lines)]
    styles = line_styles([axis_text(level) for level in axes[lines]] if lines else [regime], first=2)
    plots = []
    facets = list(product(*(axes[name] for name in rest)))
    limits = _limits(list(values.values()))
    for facet in facets[:MOST_PANELS]:
        fixed = dict(zip(rest, facet, strict=True))
        here = [v for v in cells.values() if all(coordinate(v, name) == level for name, level in fixed.items())]
        if here:
            plots.append(_panel(here, values, axes, across, lines, fixed, styles, limits, regime, folder))
    return plots, styles if lines else {}, axis_label(lines) if lines else ""


def _limits(values: Sequence[ForgettingEstimate]) -> tuple[float, float]:
    ends = [100 * end for value in values for end in (value.mean, value.low, value.high) if math.isfinite(end)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    pad = 0.06 * max(high - low, 1.0)
    return low - pad, high + pad


def _panel(
    here: Sequence[CellVerdict],
    values: Mapping[str, ForgettingEstimate],
    axes: Mapping[str, Sequence[AxisValue]],
    across: str | None,
    lines: str | None,
    fixed: Mapping[str, AxisValue],
    styles: Mapping[str, LineStyle],
    limits: tuple[float, float],
    regime: str,
    folder: Path,
) -> Plot:
    title = ", ".join(f"{name} {axis_text(level)}" for name, level in fixed.items()) or regime
    figure, ax = panel(title, axis_label(across) if across else "", "forgetting, points")
    ax.axhline(0, color="#555555", linewidth=0.8)
    columns = list(axes[across]) if across else ["-"]
    levels = list(axes[lines]) if lines else [None]
    worst: tuple[float, str] = (-math.inf, "")
    for number, level in enumerate(levels):
        style = styles[axis_text(level) if level is not None else regime]
        own = [v for v in here if lines is None or coordinate(v, lines) == level]
        estimates = {coordinate(v, across) if across else "-": values[v.cell] for v in own}
        shift = 0.5 * (number - (len(levels) - 1) / 2) / max(4, len(levels))
        points = [(i + shift, column, estimates[column]) for i, column in enumerate(columns) if column in estimates]
        x, mean = [x for x, _, _ in points], [100 * one.mean for _, _, one in points]
        ax.plot(x, mean, **style.line, marker=style.marker, markersize=4.5, linewidth=1.4)
        for x_point, column, one in points:
            if math.isfinite(one.low):
                ax.plot([x_point, x_point], [100 * one.low, 100 * one.high], color=style.ink, linewidth=1.0)
            where = f"{across} {axis_text(column)}" if across else "the cell"
            where += f", {lines} {axis_text(level)}" if lines and level is not None else ""
            worst = max(worst, (one.mean, where))
    ax.set_xticks(range(len(columns)) if across else [], [axis_text(column) for column in columns] if across else [])
    if len(columns) > 9:
        ax.tick_params(axis="x", labelrotation=60)
    ax.set_xlim(-0.6, len(columns) - 0.4)
    ax.set_ylim(*limits)
    alt = f"Forgetting of {regime}{f' at {title}' if fixed else ''}: largest {100 * worst[0]:.1f} points at {worst[1]}."
    name = "-".join(["forgetting", regime, *(f"{key}={axis_text(level)}" for key, level in fixed.items())])
    return save_plot(figure, folder, name, alt)
