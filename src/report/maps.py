"""The maps of differences: all cells at once, and every two axes with the others averaged out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from src.axes import axis_label
from src.comparison.maps import difference_figure
from src.comparison.pairing import Pairs, grouped
from src.comparison.sentences import mean_differences
from src.comparison.tables import coordinate, independent_axes
from src.comparison.verdicts import CellVerdict, Rules, judge_pairs
from src.report.plots import Plot, save_plot

MOST_VECTOR_TILES = 250
"""Maps of more tiles are embedded as PNG: their SVG would be larger than the rest of the page."""
MOST_CELLS = 500
"""Cells that the page shows one by one; larger grids are shown by averages over axes first."""
MOST_PAIRS = 10
"""Pairs of axes with a map of their own, those with the most levels first."""


def maps(
    verdicts: Sequence[CellVerdict], folder: Path, *, title: str, most_cells: int = MOST_CELLS
) -> list[tuple[str, Plot]]:
    """(name, plot) of one contrast's maps: all cells, then every pair of axes if more than two vary.

    Of more than `most_cells` cells only the maps of pairs are drawn, if there are any.
    """
    pairs = axis_pairs(verdicts)
    found = [] if pairs and len(verdicts) > most_cells else [("all cells", _map_of_cells(verdicts, title, folder))]
    a, b = verdicts[0].a, verdicts[0].b
    for across, down in pairs:
        tiles = averaged(verdicts, across, down)
        axes = f"{axis_label(across)} by {axis_label(down)}"
        certain = f"{sum(tile.certain for tile in tiles)} of {len(tiles)} tiles are certain"
        alt = f"Map of {a} minus {b} over {axes}, averaged over the other axes: {certain}."
        plot = _map(tiles, "averaged over the other axes", folder, f"map-{a}-{b}-{across}-{down}", alt)
        found.append((f"{across} × {down}", plot))
    return found


def _map_of_cells(verdicts: Sequence[CellVerdict], title: str, folder: Path) -> Plot:
    a, b = verdicts[0].a, verdicts[0].b
    wins = [sum(v.winner == name for v in verdicts) for name in (a, b)]
    counted = f"{wins[0]} cells where {a} is certainly better, {wins[1]} where {b} is, of {len(verdicts)}"
    alt = f"Map of {a} minus {b}: {counted}. The numbers are in the table of cells."
    return _map(verdicts, title, folder, f"map-{a}-{b}", alt)


def _map(verdicts: Sequence[CellVerdict], title: str, folder: Path, name: str, alt: str) -> Plot:
    vector = len(verdicts) <= MOST_VECTOR_TILES
    return save_plot(difference_figure(verdicts, title=title), folder, name, alt, vector=vector)


def axis_pairs(verdicts: Sequence[CellVerdict]) -> list[tuple[str, str]]:
    """Pairs of independent axes, if there are more than two; the axis that only names the cells is left out."""
    levels = {name: len(values) for name, values in independent_axes(verdicts).items() if name != "cell"}
    if len(levels) < 3:
        return []
    pairs = sorted(combinations(levels, 2), key=lambda pair: -levels[pair[0]] * levels[pair[1]])
    return pairs[:MOST_PAIRS]


def averaged(verdicts: Sequence[CellVerdict], *axes: str) -> list[CellVerdict]:
    """One verdict for each combination of levels of `axes`: the differences a - b, averaged over the others seed by
    seed, on every test set.

    Leaves out cells that cannot be judged, with a note, and uses the seeds that all the others have. Holm's correction
    spans the verdicts returned, on each test set by itself.
    """
    names = dict.fromkeys(name for verdict in verdicts for name in verdict.elsewhere)
    on_set = {name: [own.elsewhere[name] for own in verdicts if name in own.elsewhere] for name in names}
    elsewhere = {name: {own.cell: own for own in _averaged(group, axes)} for name, group in on_set.items()}
    return [
        replace(tile, elsewhere={name: own[tile.cell] for name, own in elsewhere.items() if tile.cell in own})
        for tile in _averaged(verdicts, axes)
    ]


def _averaged(verdicts: Sequence[CellVerdict], axes: Sequence[str]) -> list[CellVerdict]:
    """`averaged` on one test set."""
    compared = []
    for levels, group in grouped(verdicts, lambda v: tuple(coordinate(v, axis) for axis in axes)).items():
        by_seed = mean_differences(group)
        n_left_out = sum(not verdict.is_averaged for verdict in group)
        pairs = Pairs(
            a=group[0].a,
            b=group[0].b,
            metric=group[0].metric,
            seeds=tuple(by_seed),
            differences=tuple(by_seed.values()),
            problem=None if by_seed else "no seed finished in every cell",
            notes=(f"{n_left_out} of {len(group)} cells left out",) if n_left_out else (),
        )
        compared.append(("-".join(map(str, levels)), dict(zip(axes, levels, strict=True)), pairs))
    return judge_pairs(compared, Rules(any_stop=verdicts[0].any_stop))
