"""The loss landscape: the plane through three trained models with the paths on it, and the barriers between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.evaluation.labelled import training_set
from src.evaluation.landscape import (
    Barrier,
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
from src.report.plots import DASHES, INKS, LineStyle, Plot, Plots, legend_below, panel, save_plot

Floats = NDArray[np.float64]
MOST_FLOPS = 1.5e11
GRIDS = (25, 17, 11)
LINE_POINTS = 25
CURVE_STEPS = 80
CURVE_POSITIONS = 5
UNION = "union"


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """Losses around three models. Sets are ``d1``, ``d2``, ... and ``union``: training samples of each.

    `points`: model -> its coordinates in the plane; `losses[set]` [y, x] over `ys`, `xs`; `paths`: regime -> coordinates of
    its path [n, 2]; `lines`: (from, to) -> losses of every set along the straight line, and the barrier of the union's loss;
    `curve`: the same along a curve of low union loss between the ends of the two regimes (None: too costly). `off_path`:
    least distance from the other regime's end to the staged regime's path through its last stage, relative to the length
    of that stage.
    """

    points: Mapping[str, tuple[float, float]]
    xs: Floats
    ys: Floats
    losses: Mapping[str, Floats]
    paths: Mapping[str, Floats]
    lines: Mapping[tuple[str, str], tuple[Mapping[str, Floats], Barrier]]
    curve: tuple[Mapping[str, Floats], Barrier] | None
    off_path: float
    n_samples: int


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
    points = {name: plane.coordinates(model)[:2] for name, model in names.items()}
    left, right, bottom, top = window(list(points.values()), margin=0.35)
    xs, ys = np.linspace(left, right, n_grid), np.linspace(bottom, top, n_grid)
    grid = _losses(surface, [plane.at(x, y) for y in ys for x in xs], sizes)
    staged = paths[example.staged]
    boundary = staged.boundaries[-1] if staged.boundaries else 0
    stage = on_path[example.staged][max(k for k, update in enumerate(staged.updates) if update <= boundary) :]
    return Landscape(
        points=points,
        xs=xs,
        ys=ys,
        losses={name: values.reshape(n_grid, n_grid) for name, values in grid.items()},
        paths={name: np.array([plane.coordinates(w)[:2] for w in path]) for name, path in on_path.items()},
        lines=_lines(surface, names, sizes),
        curve=_curve(example, surface, last, other, sizes),
        off_path=distance_to_path(stage, other) / max(float((stage[-1] - stage[0]).norm()), 1e-12),
        n_samples=sum(len(y) for _, y in sets.values()),
    )


def _losses(surface: Surface, points: Sequence[Tensor], sizes: Mapping[str, int]) -> dict[str, Floats]:
    """Losses of every data set and of their union, weighted by size."""
    losses = {name: np.array(values) for name, values in surface.losses(points).items()}
    total = sum(sizes.values())
    return {**losses, UNION: np.sum([losses[name] * (n / total) for name, n in sizes.items()], axis=0)}


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


def landscape_plots(
    example: Example, paths: Mapping[str, WeightPath], styles: Mapping[str, LineStyle], folder: Path
) -> Plots:
    """The planes of the first two data sets and the union, and the losses between the models."""
    found = measure(example, paths)
    names = [*[name for name in found.losses if name != UNION][:2], UNION]
    plots = [_plane(example, found, name, styles, folder) for name in names]
    plots.append(_barriers(example, found, folder))
    notes = [
        f"Losses are means over {found.n_samples:,} training samples. The paths leave the plane and are drawn as their projection "
        f"onto it. The end of {example.other} lies {100 * found.off_path:.0f} % of the last stage's length away from the nearest "
        f"point of {example.staged}'s path through that stage: 0 % would mean that training passed through it."
    ]
    for name, path in paths.items():
        if not path.retrained:
            notes.append(f"The path of {name} is drawn between the ends of its stages only: {path.why_not_retrained}.")
        elif not path.exact:
            notes.append(f"The path of {name} was retrained and ends near, not exactly at, the stored weights.")
    if found.curve is None:
        notes.append("The curve of low loss is left out: computing it takes too long for this network.")
    return Plots(plots=tuple(plots), notes=tuple(notes))


def _plane(example: Example, found: Landscape, name: str, styles: Mapping[str, LineStyle], folder: Path) -> Plot:
    from matplotlib.colors import LogNorm
    from matplotlib.patheffects import withStroke

    where = "the union" if name == UNION else f"Dataset {name[1:]}"
    losses = np.maximum(np.where(np.isfinite(found.losses[name]), found.losses[name], np.inf), 1e-6)
    finite = np.concatenate([grid[np.isfinite(grid)].ravel() for grid in found.losses.values()])
    low, high = max(float(finite.min()), 1e-4), float(np.quantile(finite, 0.97))
    high = max(high, low * 3)
    levels = np.geomspace(low, high, 13)
    figure, ax = panel(f"loss on {where}", "distance in weight space", "", size=(4.3, 4.0))
    ax.grid(visible=False)
    grid, norm = (found.xs, found.ys, np.clip(losses, low, high)), LogNorm(low, high)
    filled = ax.contourf(*grid, levels=levels, cmap="cividis_r", norm=norm, extend="both")
    ax.contour(*grid, levels=levels[::2], colors="#ffffff", linewidths=0.5, alpha=0.6)
    halo = [withStroke(linewidth=3.2, foreground="white")]
    for regime, path in found.paths.items():
        ax.plot(path[:, 0], path[:, 1], **styles[regime].line, linewidth=1.6, path_effects=halo, zorder=3)
    markers = {"Dataset 1": ("#111111", "D")}
    markers |= {regime: (styles[regime].ink, styles[regime].marker) for regime in (example.staged, example.other)}
    middle = float(found.xs.mean())
    for model, (x, y) in found.points.items():
        ink, marker = markers[model]
        ax.plot(
            [x], [y], marker=marker, color=ink, markersize=8, markeredgecolor="white", markeredgewidth=1.2, zorder=4
        )
        side, offset = ("left", 9) if x <= middle else ("right", -9)
        text: dict[str, Any] = {
            "textcoords": "offset points",
            "ha": side,
            "fontsize": 8,
            "fontweight": "bold",
            "color": ink,
        }
        ax.annotate(model, (x, y), (offset, -14 if model == "Dataset 1" else 7), path_effects=halo, zorder=5, **text)
    ax.set_xlim(found.xs[0], found.xs[-1])
    ax.set_ylim(found.ys[0], found.ys[-1])
    ax.set_aspect("equal")
    bar = figure.colorbar(filled, ax=ax, shrink=0.82, pad=0.02)
    ticks = [value for value in (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if low <= value <= high]
    bar.set_ticks(ticks, labels=[f"{value:g}" for value in ticks])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=7)
    at = ", ".join(f"{_nearest(found, found.losses[name], xy):.2g} at {model}" for model, xy in found.points.items())
    alt = f"Contours of the training loss on {where} over the plane through three trained models; about {at}."
    return save_plot(figure, folder, f"landscape-{name}", alt)


def _nearest(found: Landscape, losses: Floats, point: tuple[float, float]) -> float:
    column, row = (int(np.argmin(np.abs(axis - v))) for axis, v in ((found.xs, point[0]), (found.ys, point[1])))
    return float(losses[row, column])


def _barriers(example: Example, found: Landscape, folder: Path) -> Plot:
    title = "union loss between the models"
    figure, ax = panel(title, "position between the two models", "loss on the union (log)", size=(4.3, 4.0))
    curves = [(f"{a} → {b}", losses, on_line) for (a, b), (losses, on_line) in found.lines.items()]
    styles = [(INKS[2 + k], DASHES[k], 1.6) for k in range(len(curves))]
    if found.curve is not None:
        curves.append((f"curve {example.staged} → {example.other}", *found.curve))
        styles.append(("#111111", DASHES[3], 1.8))
    for (tag, losses, _), (ink, dash, width) in zip(curves, styles, strict=True):
        ax.plot(along(LINE_POINTS), losses[UNION], color=ink, linestyle=dash, linewidth=width, label=tag)
    ax.set_yscale("log")
    legend_below(figure, *ax.get_legend_handles_labels(), columns=2)
    heights = "; ".join(f"{tag} {found_barrier.height:.2g}" for tag, _, found_barrier in curves)
    alt = (
        "Lines of the union's training loss along straight lines between the three models, and along a curve trained to "
        f"stay low. Barriers (above the higher end): {heights}."
    )
    caption = f"A hump is a barrier. Heights above the higher end: {heights}."
    return save_plot(figure, folder, "landscape-ways", alt, caption=caption)
