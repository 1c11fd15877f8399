"""The map draws every cell at its coordinates, with one colour scale, and marks uncertain differences.

Properties, read from the plot: nothing is cut off at the edges; the two regimes have opposite colours around a neutral
zero; uncertain tiles are hatched, certain ones are plain; absent and inconclusive cells are grey; each pair of regimes has
a file.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.comparison.maps import DPI, difference_figure, difference_maps
from src.comparison.tables import independent_axes
from src.comparison.verdicts import INCONCLUSIVE, UNDECIDED, CellVerdict


def verdict(
    difference: float | None, winner: str, *, b: str = "combined", metric: str = "accuracy", **axes: object
) -> CellVerdict:
    return CellVerdict(
        cell="-".join(map(str, axes.values())) or "only",
        axes=axes,  # type: ignore[arg-type]
        metric=f"test/union/{metric}",
        a="sequential",
        b=b,
        family=9,
        winner=winner,
        reason="",
        seeds=() if difference is None else tuple(range(12)),
        differences=() if difference is None else (difference,) * 12,
    )


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    image: np.ndarray = np.asarray(imread(path))[..., :3]
    return image


def share(image: np.ndarray, wanted: str) -> float:
    """Share of the pixels above the colour bar that are clearly orange, purple or the grey of a missing tile."""
    red, green, blue = np.moveaxis(image[: -int(1.3 * DPI)], -1, 0)
    masks = {
        "orange": (red > blue + 0.15) & (red > green),
        "purple": (blue > green + 0.08) & (blue > red),
        "grey": (abs(red - green) < 0.01) & (abs(red - blue) < 0.01) & (red > 0.75) & (red < 0.93),
    }
    return float(np.mean(masks[wanted]))


@pytest.mark.parametrize("n_cells", [1, 7, 240])
def test_nothing_touches_the_edge(tmp_path: Path, n_cells: int) -> None:
    coordinates = [(r, i, e) for e in (5, 20) for r in np.geomspace(0.01, 100, 12) for i in np.geomspace(1, 50, 10)][
        :n_cells
    ]
    verdicts = [
        verdict(0.01 * (k % 9 - 4), UNDECIDED, ratio=float(r), imbalance=float(i), epochs=e)
        for k, (r, i, e) in enumerate(coordinates)
    ]
    difference_figure(verdicts, title="a sweep with a rather long name, " * 4).savefig(tmp_path / "map.png")
    image = pixels(tmp_path / "map.png")
    for edge in (image[:4], image[-4:], image[:, :4], image[:, -4:]):
        assert np.all(edge == 1.0)


@pytest.mark.parametrize("reason", ["", "too few seeds: 2 cannot decide a comparison, 6 can"])
def test_no_line_below_the_colour_bar_is_left_empty(reason: str) -> None:
    figure = difference_figure([replace(verdict(0.01, UNDECIDED), reason=reason)])
    lowest = min(text.get_position()[1] for text in figure.texts if text.get_text())
    assert lowest * figure.get_size_inches()[1] < 0.2, "inches"


@pytest.mark.parametrize("n", [20, 300])
def test_labels_of_many_levels_leave_room_for_each_other(n: int) -> None:
    verdicts = [verdict(0.01, UNDECIDED, ratio=1 + k / 1000, imbalance=float(i)) for k in range(n) for i in range(2)]
    panel = difference_figure(verdicts).axes[0]
    labels = [label.get_text() for label in panel.get_xticklabels()]
    assert (len(labels) == n) == (n == 20)
    inches = panel.get_position().width * panel.get_figure(root=True).get_size_inches()[0]
    assert inches / len(labels) > 7.5 / 72 * 0.5 * max(map(len, labels)), "the width of a label"
    step = n // len(labels)
    assert labels[:2] == ["1", f"{1 + step / 1000:g}"]
    assert list(panel.get_xticks()[:2]) == [0, step]


def test_axis_titles_of_narrow_panels_leave_room_for_each_other() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    cells = [verdict(0.01, UNDECIDED, imbalance=i, epochs=e) for i in (1.0, 20.0) for e in (5, 20)]
    figure = difference_figure([replace(cell, elsewhere={"d1": cell, "d2": cell}) for cell in cells])
    renderer = FigureCanvasAgg(figure).get_renderer()
    labels = [panel.xaxis.label for panel in figure.axes if panel.get_xlabel().startswith("class imbalance")]
    boxes = [label.get_window_extent(renderer) for label in labels]
    assert len(boxes) == 3
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_colour_indicates_the_better_regime_for_accuracies_and_losses(tmp_path: Path) -> None:
    for name, difference in (("up", 0.1), ("down", -0.1)):
        difference_figure([verdict(difference, "x")]).savefig(tmp_path / f"{name}.png")
    up, down = pixels(tmp_path / "up.png"), pixels(tmp_path / "down.png")
    assert share(up, "orange") > 0.01 > share(up, "purple")
    assert share(down, "purple") > 0.01 > share(down, "orange")
    difference_figure([verdict(0.1, "x", metric="loss")]).savefig(tmp_path / "loss.png")
    assert share(pixels(tmp_path / "loss.png"), "purple") > 0.01, "a larger loss of the first favours the second"
    for metric, ends in (
        ("accuracy", ["← combined better", "sequential better →"]),
        ("loss", ["← sequential better", "combined better →"]),
    ):
        texts = [text.get_text() for text in difference_figure([verdict(0.1, "x", metric=metric)]).texts]
        assert [text for text in texts if "better" in text] == ends


def test_small_differences_are_pale(tmp_path: Path) -> None:
    """The colour scale spans at least one point, so 0.05 points do not look like a verdict."""
    difference_figure([verdict(0.0005, UNDECIDED)]).savefig(tmp_path / "map.png")
    image = pixels(tmp_path / "map.png")
    assert share(image, "orange") < 0.002
    assert share(image, "purple") < 0.002


def test_uncertain_tiles_are_hatched(tmp_path: Path) -> None:
    """The hatch adds colours to the tile; a certain tile of the same difference has one colour and a number."""
    for winner in ("sequential", UNDECIDED):
        difference_figure([verdict(0.01, winner)]).savefig(tmp_path / f"{winner}.png")
    n_colours = {
        winner: len(np.unique(np.round(pixels(tmp_path / f"{winner}.png")[100:260], 2).reshape(-1, 3), axis=0))
        for winner in ("sequential", UNDECIDED)
    }
    assert not np.array_equal(pixels(tmp_path / "sequential.png"), pixels(tmp_path / f"{UNDECIDED}.png"))
    assert n_colours[UNDECIDED] > n_colours["sequential"]


def test_absent_and_inconclusive_cells_are_grey(tmp_path: Path) -> None:
    whole = [verdict(0.05, "sequential", ratio=r, imbalance=i) for r in (0.1, 1.0, 10.0) for i in (1.0, 5.0)]
    difference_figure(whole).savefig(tmp_path / "whole.png")
    difference_figure(whole[:-1]).savefig(tmp_path / "absent.png")
    unjudged = verdict(None, INCONCLUSIVE, ratio=10.0, imbalance=5.0)
    difference_figure([*whole[:-1], unjudged]).savefig(tmp_path / "unjudged.png")
    tile = (share(pixels(tmp_path / "whole.png"), "orange")) / 6
    for name in ("absent", "unjudged"):
        assert share(pixels(tmp_path / f"{name}.png"), "orange") == pytest.approx(5 * tile, rel=0.05)
        grey = share(pixels(tmp_path / f"{name}.png"), "grey") - share(pixels(tmp_path / "whole.png"), "grey")
        assert grey == pytest.approx(tile, rel=0.15)


def test_one_file_for_each_pair_of_regimes(tmp_path: Path) -> None:
    verdicts = [verdict(0.01, UNDECIDED), verdict(0.02, UNDECIDED, b="replay(share=0.05)")]
    paths = difference_maps(verdicts, tmp_path / "maps")
    assert [path.name for path in paths] == ["map-sequential-combined.png", "map-sequential-replay(share=0.05).png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_thirty_settings_that_differ_together_make_one_small_map() -> None:
    """A random search varies all settings in every cell: the map shows its cells, not the product of all settings."""
    verdicts = [verdict(0.01, UNDECIDED, **{f"s{j}": float((j + 2) * k) for j in range(30)}) for k in range(40)]
    (panel, _colour_bar) = difference_figure(verdicts).axes
    assert len(panel.texts) == 40


def test_axes_that_follow_from_others_are_left_out_and_a_grid_keeps_its_axes() -> None:
    linked = [verdict(0.01, UNDECIDED, ratio=r, epochs=e, size=10 * r) for r in (1.0, 2.0, 3.0) for e in (5, 20)]
    assert list(independent_axes(linked)) == ["ratio", "epochs"]
    scattered = [verdict(0.01, UNDECIDED, x=k % 59, y=k * k % 61, z=k % 2) for k in range(118)]
    (panel, _colour_bar) = difference_figure(scattered).axes
    assert len(panel.texts) == 118, "cells one after the other, since most of the grid 59 x 31 x 2 is empty"
