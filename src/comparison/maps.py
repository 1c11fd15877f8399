"""The map of differences: one tile per cell, coloured by which regime is better and by how much.

Two axes span a panel; the others number the panels. The colours (purple to orange, distinguishable by colour-blind
readers) are symmetric around zero and shared by all panels. Hatching marks differences that are not certain after
Holm's correction, so the map also reads in black and white.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.axes import AxisValue, axis_label, axis_rank, axis_text
from src.comparison.tables import coordinate, in_order, independent_axes
from src.comparison.units import Unit, name_of, unit_of
from src.comparison.verdicts import BALANCED, INCONCLUSIVE, CellVerdict, by_pair

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

MAX_TILES = 2_000
"""Largest grid that is drawn whole, even if most of its points have no cell."""
MOST_LABELS = 25
"""Levels of an axis that are all labelled, however long their labels."""
MAX_INCHES = (22.0, 40.0)
DPI = 150
TEST_SET = "on"
"""The axis of the test sets."""
TITLES = {
    "d1": "on Dataset 1",
    "d2": "on Dataset 2",
    "union": "on the union",
    BALANCED: "on the union, classes balanced",
}
"""In the order of the panels, which is alphabetical."""
LETTER = 0.56
"""Mean width of a letter, in em."""
LINE = 0.22
"""Height of a line below the colour bar, in inches."""


def difference_maps(verdicts: Sequence[CellVerdict], folder: Path, *, title: str = "") -> list[Path]:
    """Writes one PNG for every pair of regimes to `folder`, named by `map_names`; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in map_names(verdicts)]
    for path, group in zip(paths, by_pair(verdicts).values(), strict=True):
        difference_figure(group, title=title).savefig(path)
    return paths


def map_names(verdicts: Sequence[CellVerdict]) -> list[str]:
    """File names of the maps, ``map-{a}-{b}.png``."""
    return [f"map-{a}-{b}.png".replace("/", "_") for a, b in by_pair(verdicts)]


def difference_figure(verdicts: Sequence[CellVerdict], *, title: str = "") -> Figure:
    """The map of one pair of regimes, for 1 to 2,000 cells; grid points without a cell stay grey.

    Verdicts on other test sets have panels of their own, side by side.
    """
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    unit, metric = unit_of(verdicts[0].metric), name_of(verdicts[0].metric)
    if any(verdict.elsewhere for verdict in verdicts):
        metric = metric.removesuffix(" on union")
        verdicts = _side_by_side(verdicts)
    axes = _map_axes(verdicts)
    across, down, panel_axes = _layout(axes)
    columns, rows = axes.get(across, ["-"]), axes.get(down, ["-"])
    panels = list(product(*(axes[name] for name in panel_axes)))

    # All lengths are in inches.
    tile_w, tile_h = _tile_size(len(columns), len(rows), len(panels), _longest(columns), len(axes.get(TEST_SET, "-")))
    above, below, gap = (0.3 if panel_axes else 0.05), 0.26, 0.3
    grid_w, grid_h = len(columns) * tile_w, len(rows) * tile_h
    panel_w, panel_h = grid_w + gap, above + grid_h + below
    n_wide = len(axes.get(TEST_SET, [])) or _panels_per_row(len(panels), panel_w, panel_h)
    down_title = _wrapped(axis_label(down), above + grid_h)
    left = 0.45 + 0.075 * _longest(rows) + 0.14 * down_title.count("\n") if down else 0.3
    lines = _legend_lines(verdicts)
    head, foot = (0.85 if title else 0.6), LINE * len(lines) + (1.1 if across else 0.8)
    width = max(5.6, left + n_wide * panel_w + 0.1)
    height = head + math.ceil(len(panels) / n_wide) * panel_h + foot
    figure = Figure(figsize=(width, height), dpi=DPI)

    largest = max((abs(v.difference) for v in verdicts if v.difference is not None), default=0.0)
    limit = max(unit.scale * largest, 10.0 ** (1 - unit.decimals))  # keeps a map of tiny differences pale
    norm = Normalize(-limit, limit)
    by_coordinates = {tuple(coordinate(v, name) for name in axes): v for v in verdicts}
    longest = max(len(unit.difference(verdict.difference)) for verdict in verdicts)
    font_size = min(9.0, 24 * tile_h, 105 * tile_w / longest)
    left += (width - 0.1 - left - n_wide * panel_w) / 2
    for index, panel in enumerate(panels):
        row, column = divmod(index, n_wide)
        bottom = height - head - row * panel_h - above - grid_h
        x = left + column * panel_w
        ax = figure.add_axes((x / width, bottom / height, grid_w / width, grid_h / height))
        fixed: dict[str, AxisValue] = dict(zip(panel_axes, panel, strict=True))
        tiles = {}
        for i, j in product(range(len(rows)), range(len(columns))):
            tile = fixed | {across: columns[j], down: rows[i]}
            tiles[j, i] = by_coordinates.get(tuple(tile[name] for name in axes))
        _draw_tiles(ax, tiles, norm, unit, font_size)
        ax.set_xlim(-0.5, len(columns) - 0.5)
        ax.set_ylim(-0.5, len(rows) - 0.5)
        wide = _tick_step(columns, tile_w, 0.03 + LETTER * 7.5 / 72 * _longest(columns))
        ax.set_xticks(range(len(columns))[::wide], [axis_text(level) for level in columns[::wide]] if across else [])
        is_labelled = bool(down) and column == 0
        high = _tick_step(rows, tile_h, 7.5 / 72)
        ax.set_yticks(range(len(rows))[::high], [axis_text(level) for level in rows[::high]] if is_labelled else [])
        ax.tick_params(length=0, labelsize=7.5)
        ax.spines[:].set_visible(False)
        if across and index + n_wide >= len(panels):
            ax.set_xlabel(axis_label(across), fontsize=_font_size(axis_label(across), grid_w + gap - 0.1, 8.5))
        if is_labelled:
            longest_line = max(down_title.split("\n"), key=len)
            ax.set_ylabel(down_title, fontsize=_font_size(longest_line, grid_h + above, 8.5))
        if fixed:
            named = {name: "" if name == TEST_SET else f"{name} = " for name in fixed}
            text = ", ".join(f"{named[name]}{axis_text(value)}" for name, value in fixed.items())
            ax.set_title(text, fontsize=_font_size(text, grid_w + gap, 9.0), pad=4)
    heading = f"{verdicts[0].a} minus {verdicts[0].b}: {metric}"
    _write(figure, heading, height - 0.3, 12.0)
    _write(figure, title, height - 0.58, 9.0, color="#505050")
    _draw_colour_bar(figure, norm, verdicts[0], lines)
    return figure


def _side_by_side(verdicts: Sequence[CellVerdict]) -> list[CellVerdict]:
    """Every verdict and those on the other test sets, with the test set as an axis."""
    return [
        replace(own, axes={**own.axes, TEST_SET: TITLES[name]})
        for verdict in verdicts
        for name, own in {"union": verdict, **verdict.elsewhere}.items()
        if name in TITLES
    ]


def _map_axes(verdicts: Sequence[CellVerdict]) -> dict[str, list[AxisValue]]:
    """The axes of the map: the independent ones, or the cells in a row if most of that grid would be empty."""
    axes = independent_axes(verdicts)
    sets = {TEST_SET: axes.pop(TEST_SET)} if TEST_SET in axes else {}
    is_grid = math.prod(map(len, axes.values())) <= max(MAX_TILES, 4 * len(verdicts))
    cells = {} if is_grid else {"cell": list(dict.fromkeys(coordinate(own, "cell") for own in in_order(verdicts)))}
    return (cells or axes) | sets


def _layout(axes: Mapping[str, Sequence[AxisValue]]) -> tuple[str, str, list[str]]:
    """Axis across, axis down ("" if there is none), axes of the panels; the two longest axes span a panel."""
    names = sorted(axes.keys() - {TEST_SET}, key=lambda name: (-len(axes[name]), axis_rank(name), name))
    across, down, *_ = *names, "", ""
    return across, down, [name for name in axes if name not in (across, down)]


def _longest(levels: Sequence[AxisValue]) -> int:
    return max(len(axis_text(level)) for level in levels)


def _tick_step(levels: Sequence[AxisValue], tile: float, label: float) -> int:
    """1, or with many levels the number of tiles that a label covers: every second, third, ... level is labelled."""
    return math.ceil(label / tile) if len(levels) > MOST_LABELS else 1


def _tile_size(n_columns: int, n_rows: int, n_panels: int, longest: int, n_sets: int) -> tuple[float, float]:
    """Width and height of a tile: generous for few cells, smaller for many, within the largest figure."""
    n_tiles = n_columns * n_rows * n_panels
    size = 0.72 if n_tiles <= 120 else 0.56 if n_tiles <= 600 else 0.44
    width = max(size, min(1.2, 0.085 * longest))
    return min(width, (MAX_INCHES[0] - 2) / n_columns / n_sets), min(size * 0.72, (MAX_INCHES[1] - 4) / n_rows)


def _panels_per_row(n_panels: int, panel_w: float, panel_h: float) -> int:
    """The number that makes the figure about 1.4 times as wide as high, within the largest width."""
    most = max(1, int((MAX_INCHES[0] - 1.5) / panel_w))
    ideal = max(1, round(math.sqrt(1.4 * n_panels * panel_h / panel_w)))
    return min(n_panels, most, ideal if n_panels > 3 else n_panels)


def _font_size(text: str, inches: float, largest: float) -> float:
    """Font size in points at which `text` fits into a width."""
    return max(4.5, min(largest, 72 * inches / (LETTER * max(1, len(text)))))


def _wrapped(text: str, inches: float) -> str:
    """`text` wrapped to a width at 7 points."""
    n_letters = max(12, int(72 * inches / (LETTER * 7)))
    return "\n".join(textwrap.wrap(text, n_letters, break_long_words=False))


def _draw_tiles(
    ax: Axes, tiles: Mapping[tuple[int, int], CellVerdict | None], norm: Normalize, unit: Unit, font_size: float
) -> None:
    """Draws one panel: colour and value of each difference, hatched if uncertain, a cross if inconclusive."""
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection

    strokes = {"white": (1.0, 1.0, 1.0, 0.45), "black": (0.0, 0.0, 0.0, 0.28)}
    hatched: dict[str, list[list[tuple[float, float]]]] = {ink: [] for ink in strokes}
    colours = colormaps[_colours(unit)]  # a copy, made at every look-up
    corners, faces = [], []
    for (x, y), verdict in tiles.items():
        square = [(x + dx, y + dy) for dx, dy in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
        style: dict[str, Any] = {}
        if verdict is None:
            face, text, ink = (0.91, 0.91, 0.91), "·", "#808080"
        elif verdict.difference is None or verdict.winner == INCONCLUSIVE:
            face, text, ink = (0.78, 0.78, 0.78), "×", "#303030"
        else:
            red, green, blue, _ = colours(float(norm(unit.scale * verdict.difference)))
            face, text = (red, green, blue), unit.difference(verdict.difference)
            ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
            if verdict.certain:
                style["fontweight"] = "bold"
            else:
                hatched[ink].append(square)
                if font_size > 8:
                    style["bbox"] = {"boxstyle": "square,pad=0.1", "facecolor": face, "linewidth": 0}
        corners.append(square)
        faces.append(face)
        if font_size >= 4.0:
            ax.text(x, y, text, ha="center", va="center", fontsize=font_size, color=ink, zorder=3, **style)
    for ink, squares in hatched.items():
        if squares:
            style = {"facecolor": "none", "edgecolor": strokes[ink], "hatch": "////", "linewidth": 0, "zorder": 2}
            ax.add_collection(PolyCollection(squares, **style))
    ax.add_collection(PolyCollection(corners, facecolor=faces, edgecolor="white", linewidth=0.8, zorder=1))


def _colours(unit: Unit) -> str:
    """Orange where the first regime is better, purple where the second is; a lower loss is better."""
    return "PuOr_r" if unit.higher_is_better else "PuOr"


def _write(figure: Figure, text: str, y: float, size: float, **style: Any) -> None:
    """A centred line of text, `y` inches above the bottom, in at most the figure's width."""
    width, height = figure.get_size_inches()
    style = {"ha": "center", "va": "center", "fontsize": _font_size(text, width - 0.4, size), **style}
    figure.text(0.5, y / height, text, **style)


def _legend_lines(verdicts: Sequence[CellVerdict]) -> list[str]:
    """The unit of the colour bar, the key to the marks, and whether there are too few seeds."""
    counts = sorted({verdict.n for verdict in verdicts if verdict.n})
    seeds = f", {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds" if counts else ""
    too_few = next((verdict.reason for verdict in verdicts if verdict.reason.startswith("too few")), "")
    scope = f" (Holm over {n})" if (n := verdicts[0].family) else ""
    key = f"bold: certain{scope}; hatched: not certain; ×: inconclusive; ·: no run"
    return [f"mean paired difference{unit_of(verdicts[0].metric).points}{seeds}", key, *filter(None, [too_few])]


def _draw_colour_bar(figure: Figure, norm: Normalize, first: CellVerdict, lines: Sequence[str]) -> None:
    """Draws the colour bar, the regime that each of its ends favours, and lines of text below it."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    width, height = figure.get_size_inches()
    unit, bottom, bar_w = unit_of(first.metric), LINE * len(lines) + 0.24, min(width - 1.2, 5.0)
    left = (width - bar_w) / 2
    bar = figure.add_axes((left / width, bottom / height, bar_w / width, 0.14 / height))
    figure.colorbar(ScalarMappable(norm, colormaps[_colours(unit)]), cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=7.5, length=2)
    below, above = (first.b, first.a) if unit.higher_is_better else (first.a, first.b)
    for x, text, side in ((left, f"← {below} better", "left"), (left + bar_w, f"{above} better →", "right")):
        size = _font_size(text, bar_w / 2 - 0.1, 8.5)
        figure.text(x / width, (bottom + 0.26) / height, text, ha=side, va="center", fontsize=size)
    for k, text in enumerate(reversed(lines)):
        _write(figure, text, 0.15 + LINE * k, 8.0, color="#303030")
