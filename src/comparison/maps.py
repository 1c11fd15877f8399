"""The map of differences: every cell of the grid as a tile, coloured by who is better and by how much.

Two axes span a facet, the others number the facets. Colour (purple to orange, which the colour-blind tell apart) is
symmetric around zero and shared by all facets; hatching marks what is not certain after Holm's correction, so the map
also reads in print and without colour.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from src.comparison.pairing import Axis
from src.comparison.tables import axis_text, place, varying_axes
from src.comparison.units import Unit, name_of, unit_of
from src.comparison.verdicts import INCONCLUSIVE, CellVerdict, contrasts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

TITLES = {
    "ratio": "ratio |D2| / |D1|",
    "imbalance": "class imbalance, n_max / n_min",
    "epochs": "epochs per stage",
    "shift": "shift of Dataset 2",
    "arch": "architecture",
    "data": "data",
    "cell": "cell",
}
ACROSS = ("ratio", "imbalance", "shift", "epochs")
"""Which axes span a facet when several have equally many levels."""
MAX_INCHES = (22.0, 40.0)
DPI = 150


def difference_maps(verdicts: Sequence[CellVerdict], folder: Path, *, title: str = "") -> list[Path]:
    """One PNG for every two regimes, ``map-{a}-{b}.png`` in `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in map_names(verdicts)]
    for path, group in zip(paths, contrasts(verdicts).values(), strict=True):
        difference_figure(group, title=title).savefig(path)
    return paths


def map_names(verdicts: Sequence[CellVerdict]) -> list[str]:
    """The files of `difference_maps`, one for every two regimes."""
    return [f"map-{a}-{b}.png".replace("/", "_") for a, b in contrasts(verdicts)]


def difference_figure(verdicts: Sequence[CellVerdict], *, title: str = "") -> Figure:
    """The map of one pair of regimes, for 1 to 2,000 cells; places without a cell stay grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    ((a, b),) = contrasts(verdicts)
    unit = unit_of(verdicts[0].metric)
    axes = varying_axes(verdicts)
    across, down, facet_axes = _layout(axes)
    columns, rows = axes.get(across or "", ["-"]), axes.get(down or "", ["-"])
    facets = list(product(*(axes[name] for name in facet_axes)))

    tile_w, tile_h = _tile_inches(len(columns), len(rows), len(facets), _longest(columns))
    above, below, between = (0.3 if facet_axes else 0.05), 0.26, 0.3
    facet_w, facet_h = len(columns) * tile_w + between, above + len(rows) * tile_h + below
    n_wide = _facets_per_row(len(facets), facet_w, facet_h)
    n_high = math.ceil(len(facets) / n_wide)
    down_title = _wrapped(TITLES.get(down, down), above + len(rows) * tile_h) if down else ""
    left = 0.45 + 0.075 * _longest(rows) + 0.14 * down_title.count("\n") if down else 0.3
    head, foot = (0.85 if title else 0.6), (1.95 if across else 1.6)
    width = max(5.6, left + n_wide * facet_w + 0.1)
    height = head + n_high * facet_h + foot
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)

    largest = max((abs(v.difference) for v in verdicts if v.difference is not None), default=0.0)
    limit = max(unit.scale * largest, 10.0 ** (1 - unit.decimals))  # a map of tiny differences shall look pale
    norm = Normalize(-limit, limit)
    at = {tuple(place(v, name) for name in axes): v for v in verdicts}
    longest = max(len(unit.difference(verdict.difference)) for verdict in verdicts)
    font_size = min(9.0, 24 * tile_h, 105 * tile_w / longest)
    left += (width - 0.1 - left - n_wide * facet_w) / 2
    for index, facet in enumerate(facets):
        row, column = divmod(index, n_wide)
        bottom = height - head - row * facet_h - above - len(rows) * tile_h
        x, w, h = left + column * facet_w, len(columns) * tile_w, len(rows) * tile_h
        ax = figure.add_axes((x / width, bottom / height, w / width, h / height))
        fixed = dict(zip(facet_axes, facet, strict=True))
        tiles = {}
        for i, j in product(range(len(rows)), range(len(columns))):
            here = fixed | ({across: columns[j]} if across else {}) | ({down: rows[i]} if down else {})
            tiles[j, i] = at.get(tuple(here[name] for name in axes))
        _tiles(ax, tiles, norm, font_size=font_size)
        last_row, first_column = index + n_wide >= len(facets), column == 0
        ax.set_xlim(-0.5, len(columns) - 0.5)
        ax.set_ylim(-0.5, len(rows) - 0.5)
        _label(ax, columns if across else [], rows if down and first_column else [])
        if across and last_row:
            ax.set_xlabel(TITLES.get(across, across), fontsize=8.5)
        if down and first_column:
            longest_line = max(down_title.split("\n"), key=len)
            ax.set_ylabel(down_title, fontsize=_fitting(longest_line, h + above, 8.5))
        if fixed:
            text = ", ".join(f"{name} = {axis_text(value)}" for name, value in fixed.items())
            ax.set_title(text, fontsize=_fitting(text, w + between, 9.0), pad=4)
    _heading(figure, f"{a} minus {b}: {name_of(verdicts[0].metric)}", title)
    _legend(figure, norm, verdicts)
    return figure


# ------------------------------------------------------------------------------------------------ where things go


def _layout(axes: dict[str, list[Axis]]) -> tuple[str | None, str | None, list[str]]:
    """Axis across, axis down, axes of the facets: the two longest span a facet, the longer one across."""
    preference = {name: rank for rank, name in enumerate(ACROSS)}
    names = sorted(axes, key=lambda name: (-len(axes[name]), preference.get(name, len(ACROSS))))
    across, down = names[0] if names else None, names[1] if len(names) > 1 else None
    return across, down, [name for name in axes if name not in (across, down)]


def _longest(levels: Sequence[Axis]) -> int:
    return max(len(axis_text(level)) for level in levels)


def _tile_inches(n_columns: int, n_rows: int, n_facets: int, longest: int) -> tuple[float, float]:
    """Width and height of a tile: generous for few cells, smaller for many, within the largest figure."""
    n_tiles = n_columns * n_rows * n_facets
    size = 0.72 if n_tiles <= 120 else 0.56 if n_tiles <= 600 else 0.44
    width = max(size, min(1.2, 0.085 * longest))
    return min(width, (MAX_INCHES[0] - 2) / n_columns), min(size * 0.72, (MAX_INCHES[1] - 4) / n_rows)


def _facets_per_row(n_facets: int, facet_w: float, facet_h: float) -> int:
    """As many as make the figure about 1.4 times as wide as high, within its largest width."""
    most = max(1, int((MAX_INCHES[0] - 1.5) / facet_w))
    wished = max(1, round(math.sqrt(1.4 * n_facets * facet_h / facet_w)))
    return min(n_facets, most, wished if n_facets > 3 else n_facets)


def _fitting(text: str, inches: float, largest: float) -> float:
    """Font size in points at which `text` is at most so many inches wide (a letter is about 0.56 em)."""
    return max(4.5, min(largest, 72 * inches / (0.56 * max(1, len(text)))))


def _wrapped(text: str, inches: float) -> str:
    """`text` in as few lines as let it be legible (7 points) within so many inches."""
    n_letters = max(12, int(72 * inches / (0.56 * 7)))
    return "\n".join(textwrap.wrap(text, n_letters, break_long_words=False))


# ------------------------------------------------------------------------------------------------ what is drawn


def _tiles(ax: Axes, tiles: dict[tuple[int, int], CellVerdict | None], norm: Normalize, *, font_size: float) -> None:
    """One facet: colour and number of each difference, hatched while uncertain, a cross where it cannot be judged."""
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection

    squares: dict[str, list[list[tuple[float, float]]]] = {"on dark": [], "on light": []}
    corners, faces = [], []
    for (x, y), verdict in tiles.items():
        square = [(x + dx, y + dy) for dx, dy in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
        face, text, weight, ink, hatched = (0.91, 0.91, 0.91), "·", "normal", "#808080", False
        if verdict is not None and (verdict.difference is None or verdict.winner == INCONCLUSIVE):
            face, text, ink = (0.78, 0.78, 0.78), "×", "#303030"
        elif verdict is not None:
            assert verdict.difference is not None
            unit = unit_of(verdict.metric)
            red, green, blue, _ = colormaps[_colours(unit)](float(norm(unit.scale * verdict.difference)))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            face, hatched = (red, green, blue), not verdict.certain
            if hatched:
                squares["on dark" if dark else "on light"].append(square)
            text, ink = unit.difference(verdict.difference), "white" if dark else "black"
            weight = "bold" if verdict.certain else "normal"
        corners.append(square)
        faces.append(face)
        if font_size < 4.0:
            continue
        behind = (
            {"boxstyle": "square,pad=0.1", "facecolor": face, "linewidth": 0} if hatched and font_size > 8 else None
        )
        ax.text(
            x,
            y,
            text,
            ha="center",
            va="center",
            fontsize=font_size,
            fontweight=weight,
            color=ink,
            bbox=behind,
            zorder=3,
        )
    for shade, stroke in (("on dark", (1, 1, 1, 0.45)), ("on light", (0, 0, 0, 0.28))):
        if squares[shade]:
            ax.add_collection(
                PolyCollection(squares[shade], facecolor="none", edgecolor=stroke, hatch="////", linewidth=0, zorder=2)
            )
    ax.add_collection(PolyCollection(corners, facecolor=faces, edgecolor="white", linewidth=0.8, zorder=1))


def _colours(unit: Unit) -> str:
    """Orange where the regime named first is better, purple where the second is: of losses, where the difference is negative."""
    return "PuOr_r" if unit.higher_is_better else "PuOr"


def _label(ax: Axes, columns: Sequence[Axis], rows: Sequence[Axis]) -> None:
    """Ticks at the levels of the axes that are given, no frame."""
    ax.set_xticks(range(len(columns)), [axis_text(level) for level in columns])
    ax.set_yticks(range(len(rows)), [axis_text(level) for level in rows])
    ax.tick_params(length=0, labelsize=7.5)
    for side in ax.spines.values():
        side.set_visible(False)


def _heading(figure: Figure, heading: str, title: str) -> None:
    width, height = figure.get_size_inches()
    for text, y, size, ink in ((heading, 0.3, 12.0, "black"), (title, 0.58, 9.0, "#505050")):
        figure.text(
            0.5, 1 - y / height, text, ha="center", va="center", fontsize=_fitting(text, width - 0.4, size), color=ink
        )


def _legend(figure: Figure, norm: Normalize, verdicts: Sequence[CellVerdict]) -> None:
    """The shared colour bar with the side that each end favours, what the marks mean, and whether seeds are too few."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    width, height = figure.get_size_inches()
    first, unit = verdicts[0], unit_of(verdicts[0].metric)
    bar_w = min(width - 1.2, 5.0)
    left = (width - bar_w) / 2
    bar = figure.add_axes((left / width, 0.92 / height, bar_w / width, 0.14 / height))
    figure.colorbar(ScalarMappable(norm, colormaps[_colours(unit)]), cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=7.5, length=2)
    below, above = (first.b, first.a) if unit.higher_is_better else (first.a, first.b)
    for x, text, side in ((left, f"← {below} better", "left"), (left + bar_w, f"{above} better →", "right")):
        size = _fitting(text, bar_w / 2 - 0.1, 8.5)
        figure.text(x / width, 1.18 / height, text, ha=side, va="center", fontsize=size)
    ns = sorted({verdict.n for verdict in verdicts if verdict.n})
    seeds = "" if not ns else f", {ns[0]} seeds" if len(ns) == 1 else f", {ns[0]} to {ns[-1]} seeds"
    of = f", {unit.of_differences}" if unit.of_differences else ""
    few = next((verdict.reason for verdict in verdicts if verdict.reason.startswith("too few")), "")
    lines = (
        f"mean paired difference{of}{seeds}",
        f"bold: certain (Holm over {first.family}); hatched: not certain; ×: inconclusive; ·: no run",
        few,
    )
    for line, y in zip(lines, (0.62, 0.38, 0.17), strict=True):
        size = _fitting(line, width - 0.3, 8.0)
        figure.text(
            0.5, y / height, line, ha="center", va="center", fontsize=size, color="#404040" if y < 0.6 else "black"
        )
