"""Forgetting over the grid: the accuracy on earlier data that a regime loses by the end of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from src.axes import AxisValue, axis_label, axis_order, axis_text
from src.comparison.pairing import RunRecord, by_cell, grouped
from src.comparison.statistics import sign_flip_interval
from src.comparison.tables import coordinate, independent_axes
from src.comparison.verdicts import CellVerdict
from src.report.plots import LineStyle, Plot, line_styles, panel, save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 12
MOST_LINES = 8
MOST_TICKS = 25
"""Labels of an axis in one panel; of more levels every second, third, ... is labelled."""


class ForgettingEstimate(NamedTuple):
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
            low, high = map(float, sign_flip_interval(values))
            found[cell] = ForgettingEstimate(float(np.mean(values)), low, high, len(values))
    return found


def forgetting_plots(
    verdicts: Iterable[CellVerdict], runs: Sequence[RunRecord], regime: str, folder: Path
) -> tuple[list[Plot], dict[str, LineStyle], str]:
    """The panels of one regime, the style of every line, and the title of the axis whose levels are the lines.

    Empty if the regime has no earlier data to forget.
    """
    values = forgetting_by_cell(runs, regime)
    cells = [verdict for verdict in {v.cell: v for v in verdicts}.values() if verdict.cell in values]
    if not cells:
        return [], {}, ""
    axes = independent_axes(cells)
    names = sorted(axes, key=lambda name: -len(axes[name]))
    across = names[0] if names else ""
    lines = names[1] if len(names) > 1 and len(axes[names[1]]) <= MOST_LINES else ""
    rest = [name for name in names if name not in (across, lines)]
    styles = line_styles([axis_text(level) for level in axes[lines]] if lines else [regime], first=2)
    ends = np.array([[one.mean, one.low, one.high] for one in values.values()])
    finite = 100 * ends[np.isfinite(ends)]
    low, high = min(0.0, finite.min()), max(0.0, finite.max())
    pad = 0.06 * max(high - low, 1.0)
    plots = []
    groups = grouped(cells, lambda cell: tuple(coordinate(cell, name) for name in rest))
    for facet in sorted(groups, key=lambda facet: [axis_order(level) for level in facet])[:MOST_PANELS]:
        fixed = dict(zip(rest, map(axis_text, facet), strict=True))
        title = ", ".join(f"{name} {text}" for name, text in fixed.items())
        ax = panel(title or regime, axis_label(across), "forgetting, points")
        largest = _draw(ax, groups[facet], values, axes, across, lines, list(styles.values()))
        ax.set_ylim(low - pad, high + pad)
        alt = f"Forgetting of {regime}{f' at {title}' if fixed else ''}: largest {largest}."
        name = "-".join(["forgetting", regime, *(f"{key}={text}" for key, text in fixed.items())])
        plots.append(save_plot(ax, folder, name, alt))
    return plots, styles if lines else {}, axis_label(lines)


def _draw(
    ax: Axes,
    cells: Sequence[CellVerdict],
    values: Mapping[str, ForgettingEstimate],
    axes: Mapping[str, Sequence[AxisValue]],
    across: str,
    lines: str,
    styles: Sequence[LineStyle],
) -> str:
    """Draws a line for each level of `lines` over the levels of `across` ("" for none); returns the largest as text."""
    ax.axhline(0, color="#555555", linewidth=0.8)
    columns = {level: k for k, level in enumerate(axes.get(across, ["-"]))}
    levels = list(axes.get(lines, ["-"]))
    for number, (level, style) in enumerate(zip(levels, styles, strict=True)):
        shift = 0.5 * (number - (len(levels) - 1) / 2) / max(4, len(levels))
        points = [(columns[coordinate(v, across)], values[v.cell]) for v in cells if coordinate(v, lines) == level]
        points.sort(key=lambda point: point[0])
        means = [100 * one.mean for _, one in points]
        ax.plot([x + shift for x, _ in points], means, **style.line, marker=style.marker, markersize=4.5, linewidth=1.4)
        for x, one in points:
            if np.isfinite(one.low):
                ax.plot([x + shift] * 2, [100 * one.low, 100 * one.high], color=style.ink, linewidth=1.0)
    step = -(-len(columns) // MOST_TICKS)  # more labels would cover each other
    ticks = list(columns.items())[::step] if across else []
    ax.set_xticks([column for _, column in ticks], [axis_text(level) for level, _ in ticks])
    if len(columns) > 9:
        ax.tick_params(axis="x", labelrotation=60)
    ax.set_xlim(-0.6, len(columns) - 0.4)
    worst = max(cells, key=lambda v: values[v.cell].mean)
    where = ", ".join(f"{axis} {axis_text(coordinate(worst, axis))}" for axis in (across, lines) if axis)
    return f"{100 * values[worst.cell].mean:.1f} points at {where or 'the cell'}"
