"""The pictures of the loss landscape: the plane through three optima with the paths on it, and the ways between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.evaluation.labelled import training_set
from src.evaluation.landscape import (
    Barrier,
    Plane,
    Surface,
    along,
    barrier,
    bezier,
    connect,
    distance_to_path,
    interpolate,
    plane_through,
    window,
)
from src.report.example import Example, Unavailable, WeightPath
from src.report.style import DASHES, INKS, Look, Picture, label, legend_below, panel, picture

Floats = NDArray[np.float64]
MOST_FLOPS = 1.5e11
GRIDS = (25, 17, 11)
LINE_POINTS = 25
CURVE_STEPS = 80
CURVE_POSITIONS = 5
UNION = "union"


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """The losses around three points. Sets are ``d1``, ``d2``, ... and ``union``, training samples of each.

    `places`: name of a point -> its coordinates; `losses[set]` [y, x] over `ys`, `xs`; `paths`: regime -> coordinates of
    its path [n, 2]; `lines`: (from, to) -> losses of every set along the straight line and the barrier on the union;
    `curve`: the same along a curve of low union loss between the two regimes' ends (None: too costly). `off_path`: least
    distance of the other regime's end from the staged one's path through its last stage, as a share of that stage's length.
    """

    places: Mapping[str, tuple[float, float]]
    xs: Floats
    ys: Floats
    losses: Mapping[str, Floats]
    paths: Mapping[str, Floats]
    lines: Mapping[tuple[str, str], tuple[Mapping[str, Floats], Barrier]]
    curve: tuple[Mapping[str, Floats], Barrier] | None
    off_path: float
    n_samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LandscapePictures:
    """The pictures, and what could not be drawn and why."""

    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]


def measure(example: Example, paths: Mapping[str, WeightPath]) -> Landscape:
    """The landscape of one example; raises Unavailable where it would take too long or the points span no plane."""
    dtype = next(example.model.parameters()).dtype
    for n_grid in GRIDS:
        try:
            n = example.samples_within(MOST_FLOPS, n_grid**2 + 4 * LINE_POINTS, least=100)
            break
        except Unavailable:
            if n_grid == GRIDS[-1]:
                raise
    sizes = {f"d{k + 1}": len(samples) for k, samples in enumerate(example.stream.train) if len(samples)}
    total = sum(sizes.values())
    sets = {}
    for name in sizes:
        samples = training_set(example.stream.train[int(name[1:]) - 1], dtype, max(20, round(n * sizes[name] / total)))
        sets[name] = (samples.x, samples.y)
    surface = Surface(example.model, sets, example.config.loss)

    first, last = (surface.vector(example.finals[example.staged][k].weights) for k in (0, -1))
    other = surface.vector(example.finals[example.other][-1].weights)
    names = {"Dataset 1": first, example.staged: last, example.other: other}
    try:
        plane = plane_through(first, last, other)
    except ValueError as error:
        raise Unavailable(str(error)) from None
    on_path = {name: [surface.vector(w) for w in path.weights] for name, path in paths.items()}
    places = {name: plane.coordinates(point)[:2] for name, point in names.items()}
    left, right, bottom, top = window(list(places.values()), margin=0.35)
    xs, ys = np.linspace(left, right, n_grid), np.linspace(bottom, top, n_grid)
    grid = _losses(surface, [plane.at(x, y) for y in ys for x in xs], sizes)
    begun = max(k for k, u in enumerate(paths[example.staged].updates) if u <= _last_boundary(paths[example.staged]))
    stage = on_path[example.staged][begun:]
    return Landscape(
        places=places,
        xs=xs,
        ys=ys,
        losses={name: values.reshape(n_grid, n_grid) for name, values in grid.items()},
        paths={name: _on_plane(plane, points) for name, points in on_path.items()},
        lines=_lines(surface, names, sizes),
        curve=_curve(example, surface, last, other, sizes),
        off_path=distance_to_path(stage, other) / max(float((stage[-1] - stage[0]).norm()), 1e-12),
        n_samples=sum(len(y) for _, y in sets.values()),
    )


def _last_boundary(path: WeightPath) -> int:
    return path.boundaries[-1] if path.boundaries else 0


def _losses(surface: Surface, points: Sequence[Tensor], sizes: Mapping[str, int]) -> dict[str, Floats]:
    """Losses of every data set and of their union, which weighs them by their sizes."""
    losses = {name: np.array(values) for name, values in surface.losses(points).items()}
    total = sum(sizes.values())
    return {**losses, UNION: np.sum([losses[name] * (n / total) for name, n in sizes.items()], axis=0)}


def _on_plane(plane: Plane, points: Sequence[Tensor]) -> Floats:
    return np.array([plane.coordinates(point)[:2] for point in points])


def _lines(
    surface: Surface, names: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> dict[tuple[str, str], tuple[Mapping[str, Floats], Barrier]]:
    lines: dict[tuple[str, str], tuple[Mapping[str, Floats], Barrier]] = {}
    ordered = list(names)
    positions = along(LINE_POINTS)
    for a, b in ((0, 1), (1, 2), (0, 2)):
        start, end = names[ordered[a]], names[ordered[b]]
        losses = _losses(surface, [interpolate(start, end, t) for t in positions], sizes)
        lines[ordered[a], ordered[b]] = (losses, barrier(losses[UNION].tolist(), positions))
    return lines


def _curve(
    example: Example, surface: Surface, a: Tensor, b: Tensor, sizes: Mapping[str, int]
) -> tuple[Mapping[str, Floats], Barrier] | None:
    """A backward pass costs about two forward ones, hence the factor 3."""
    n_samples = sum(len(y) for _, y in surface.sets.values())
    if 3 * CURVE_STEPS * CURVE_POSITIONS * n_samples * example.forward_flops > MOST_FLOPS:
        return None
    total = sum(sizes.values())

    def union(point: Tensor) -> Tensor:
        parts = [surface.loss_of(name)(point) * (n / total) for name, n in sizes.items()]
        return torch.stack(parts).sum()

    control = connect(union, a, b, n_steps=CURVE_STEPS, n_positions=CURVE_POSITIONS)
    positions = along(LINE_POINTS)
    losses = _losses(surface, [bezier(a, control, b, t) for t in positions], sizes)
    return losses, barrier(losses[UNION].tolist(), positions)


# ------------------------------------------------------------------------------------------------ drawing


def landscape_pictures(
    example: Example, paths: Mapping[str, WeightPath], styles: Mapping[str, Look], folder: Path
) -> LandscapePictures:
    """The planes of the first data sets and the union, and the losses along the ways between the points."""
    found = measure(example, paths)
    names = [*[name for name in found.losses if name != UNION][:2], UNION]
    pictures = [_plane(example, found, name, styles, folder) for name in names]
    pictures.append(_ways(example, found, folder))
    notes = [
        f"Losses are means over {found.n_samples:,} training samples. The paths leave the plane and are drawn as their shadow on it. "
        f"The end of {example.other} lies {100 * found.off_path:.0f} % of the last stage's length away from the nearest "
        f"point of {example.staged}'s path through that stage: 0 % would mean that training passed through it."
    ]
    for name, path in paths.items():
        if not path.watched:
            notes.append(f"The path of {name} is drawn between the ends of its stages only: {path.not_watched}.")
        elif not path.exact:
            notes.append(
                f"The path of {name} was trained again here and ends near, not exactly at, the stored weights."
            )
    if found.curve is None:
        notes.append("The curve of low loss is left out: finding it takes too long for this network.")
    return LandscapePictures(pictures=tuple(pictures), notes=tuple(notes))


def _plane(example: Example, found: Landscape, name: str, styles: Mapping[str, Look], folder: Path) -> Picture:
    from matplotlib.colors import LogNorm
    from matplotlib.patheffects import withStroke

    losses = np.maximum(np.where(np.isfinite(found.losses[name]), found.losses[name], np.inf), 1e-6)
    finite = np.concatenate([grid[np.isfinite(grid)].ravel() for grid in found.losses.values()])
    low, high = max(float(finite.min()), 1e-4), float(np.quantile(finite, 0.97))
    high = max(high, low * 3)
    levels = np.geomspace(low, high, 13)
    figure, ax = panel(size=(4.3, 4.0))
    ax.grid(visible=False)
    clipped = np.clip(losses, low, high)
    filled = ax.contourf(
        found.xs, found.ys, clipped, levels=levels, cmap="cividis_r", norm=LogNorm(low, high), extend="both"
    )
    ax.contour(found.xs, found.ys, clipped, levels=levels[::2], colors="#ffffff", linewidths=0.5, alpha=0.6)
    halo = [withStroke(linewidth=3.2, foreground="white")]
    for regime, path in found.paths.items():
        style = styles[regime]
        ax.plot(
            path[:, 0], path[:, 1], color=style.ink, linestyle=style.dash, linewidth=1.6, path_effects=halo, zorder=3
        )
    looks_of = {
        "Dataset 1": ("#111111", "D"),
        example.staged: (styles[example.staged].ink, styles[example.staged].marker),
        example.other: (styles[example.other].ink, styles[example.other].marker),
    }
    middle = float(found.xs.mean())
    for point, (x, y) in found.places.items():
        ink, marker = looks_of[point]
        ax.plot(
            [x], [y], marker=marker, color=ink, markersize=8, markeredgecolor="white", markeredgewidth=1.2, zorder=4
        )
        side = "left" if x <= middle else "right"
        ax.annotate(
            point,
            (x, y),
            (9 if side == "left" else -9, -14 if point == "Dataset 1" else 7),
            textcoords="offset points",
            ha=side,
            fontsize=8,
            fontweight="bold",
            color=ink,
            path_effects=halo,
            zorder=5,
        )
    ax.set_xlim(found.xs[0], found.xs[-1])
    ax.set_ylim(found.ys[0], found.ys[-1])
    ax.set_aspect("equal")
    bar = figure.colorbar(filled, ax=ax, shrink=0.82, pad=0.02)
    ticks = [value for value in (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if low <= value <= high]
    bar.set_ticks(ticks, labels=[f"{value:g}" for value in ticks])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=7)
    where = "union" if name == UNION else f"Dataset {name[1:]}"
    label(ax, f"loss on the {where}" if name == UNION else f"loss on {where}", "distance in weight space", "")
    at = {point: _nearest(found, found.losses[name], place) for point, place in found.places.items()}
    said = ", ".join(f"{value:.2g} at {point}" for point, value in at.items())
    return picture(
        figure,
        folder,
        f"landscape-{name}",
        f"Contours of the training loss on {where} over the plane through three trained models; about {said}.",
    )


def _nearest(found: Landscape, losses: Floats, place: tuple[float, float]) -> float:
    column, row = (int(np.argmin(np.abs(axis - v))) for axis, v in ((found.xs, place[0]), (found.ys, place[1])))
    return float(losses[row, column])


def _ways(example: Example, found: Landscape, folder: Path) -> Picture:
    figure, ax = panel(size=(4.3, 4.0))
    positions = along(LINE_POINTS)
    said = []
    for number, ((a, b), (losses, on_line)) in enumerate(found.lines.items()):
        tag = f"{a} → {b}"
        ax.plot(positions, losses[UNION], color=INKS[2 + number], linestyle=DASHES[number], linewidth=1.6, label=tag)
        said.append(f"{tag} {on_line.height:.2g}")
    if found.curve is not None:
        losses, on_curve = found.curve
        tag = f"curve {example.staged} → {example.other}"
        ax.plot(positions, losses[UNION], color="#111111", linestyle=DASHES[3], linewidth=1.8, label=tag)
        said.append(f"{tag} {on_curve.height:.2g}")
    ax.set_yscale("log")
    legend_below(figure, *ax.get_legend_handles_labels(), columns=2)
    label(ax, "union loss on the way from one to another", "position along the way", "loss on the union (log)")
    return picture(
        figure,
        folder,
        "landscape-ways",
        "Lines of the union's training loss along straight lines between the three models, and along a curve trained to "
        f"stay low. Barriers (above the higher end): {'; '.join(said)}.",
        caption=f"A hump is a barrier. Heights above the higher end: {'; '.join(said)}.",
    )
