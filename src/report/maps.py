"""The maps of differences: all cells at once, and every two axes with the others averaged out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from src.axes import AxisValue, axis_label
from src.comparison.maps import difference_figure
from src.comparison.statistics import holm, seeds_needed, sign_flip_interval, sign_flip_p
from src.comparison.tables import coordinate, varying_axes
from src.comparison.units import unit_of
from src.comparison.verdicts import INCONCLUSIVE, UNDECIDED, CellVerdict
from src.report.plots import Plot, save_plot

MOST_VECTOR_TILES = 250
"""Maps of more tiles are embedded as PNG: their SVG would be larger than the rest of the page."""
MOST_PAIRS = 10
"""Pairs of axes with a map of their own, those with the most levels first."""


def maps(verdicts: Sequence[CellVerdict], folder: Path, *, title: str) -> list[tuple[str, Plot]]:
    """(name, plot) of one contrast's maps: all cells, then every pair of axes if more than two vary."""
    a, b = verdicts[0].a, verdicts[0].b
    wins = [sum(v.winner == name for v in verdicts) for name in (a, b)]
    counted = f"{wins[0]} cells where {a} is certainly better, {wins[1]} where {b} is, of {len(verdicts)}"
    alt = f"Map of {a} minus {b}: {counted}. The numbers are in the table of cells."
    found = [("all cells", _map(verdicts, title, folder, f"map-{a}-{b}", alt))]
    for across, down in axis_pairs(verdicts):
        tiles = averaged(verdicts, across, down)
        axes = f"{axis_label(across)} by {axis_label(down)}"
        certain = f"{sum(tile.certain for tile in tiles)} of {len(tiles)} tiles are certain"
        alt = f"Map of {a} minus {b} over {axes}, averaged over the other axes: {certain}."
        plot = _map(tiles, "averaged over the other axes", folder, f"map-{a}-{b}-{across}-{down}", alt)
        found.append((f"{across} × {down}", plot))
    return found


def _map(verdicts: Sequence[CellVerdict], title: str, folder: Path, name: str, alt: str) -> Plot:
    vector = len(verdicts) <= MOST_VECTOR_TILES
    return save_plot(difference_figure(verdicts, title=title), folder, name, alt, vector=vector)


def axis_pairs(verdicts: Sequence[CellVerdict]) -> list[tuple[str, str]]:
    """Pairs of varying axes, if more than two vary; the axis that only names the cells is left out."""
    levels = {name: len(values) for name, values in varying_axes(verdicts).items() if name != "cell"}
    if len(levels) < 3:
        return []
    pairs = sorted(combinations(levels, 2), key=lambda pair: -levels[pair[0]] * levels[pair[1]])
    return pairs[:MOST_PAIRS]


def averaged(verdicts: Sequence[CellVerdict], across: str, down: str, alpha: float = 0.05) -> list[CellVerdict]:
    """One verdict for each pair of levels: the differences a - b, averaged over the other axes seed by seed.

    Leaves out cells that cannot be judged, with a note, and uses the seeds that all the others have. Holm's correction
    spans the tiles of this map.
    """
    groups: dict[tuple[AxisValue, AxisValue], list[CellVerdict]] = {}
    for verdict in verdicts:
        groups.setdefault((coordinate(verdict, across), coordinate(verdict, down)), []).append(verdict)
    tiles = [_average(group, {across: x, down: y}, alpha) for (x, y), group in groups.items()]
    tested = [tile for tile in tiles if tile.n]
    family = max(1, len(tested))
    adjusted = iter(holm([1.0 if tile.p is None else tile.p for tile in tested], n_tests=family))
    return [_judged(tile, float(next(adjusted)), family, alpha) if tile.n else tile for tile in tiles]


def _average(group: Sequence[CellVerdict], axes: dict[str, AxisValue], alpha: float) -> CellVerdict:
    """The tile of one pair of levels, before correction."""
    first = group[0]
    conclusive = [verdict for verdict in group if verdict.winner != INCONCLUSIVE]
    seeds = sorted(set.intersection(*(set(verdict.seeds) for verdict in conclusive))) if conclusive else []
    of_cell = [dict(zip(verdict.seeds, verdict.differences, strict=True)) for verdict in conclusive]
    differences = [float(np.mean([cell[seed] for cell in of_cell])) for seed in seeds]
    left_out = len(group) - len(conclusive)
    tile = replace(
        first,
        cell="-".join(map(str, axes.values())),
        axes=axes,
        mean_a=None,
        mean_b=None,
        difference=float(np.mean(differences)) if differences else None,
        ci_low=None,
        ci_high=None,
        p=None,
        p_holm=None,
        n=len(seeds),
        winner=INCONCLUSIVE,
        reason="" if seeds else "no seed finished in every cell",
        notes=(f"{left_out} of {len(group)} cells left out",) if left_out else (),
        seeds=tuple(seeds),
        differences=tuple(differences),
    )
    if len(seeds) < seeds_needed(1, alpha):
        return tile
    low, high = sign_flip_interval(differences, alpha=alpha)
    return replace(tile, p=float(sign_flip_p(differences)), ci_low=float(low), ci_high=float(high))


def _judged(tile: CellVerdict, p_holm: float, family: int, alpha: float) -> CellVerdict:
    assert tile.difference is not None
    needed = seeds_needed(family, alpha)
    if tile.p is None or (tile.n < needed and p_holm > alpha):
        reason = f"too few seeds: {tile.n} cannot decide {family} comparisons at once, {needed} can"
        return replace(tile, family=family, winner=UNDECIDED, reason=reason)
    winner, reason = UNDECIDED, "the difference is not certain"
    if p_holm <= alpha:
        better = tile.difference if unit_of(tile.metric).higher_is_better else -tile.difference
        winner, reason = (tile.a if better > 0 else tile.b), "the difference is certain"
    return replace(tile, family=family, p_holm=p_holm, winner=winner, reason=reason)
