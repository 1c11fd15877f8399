"""The loss landscape: the plane through three trained models with the paths on it, and the barriers between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.claims.cell import MissingEvidence
from src.comparison.statistics import Floats
from src.comparison.units import set_title
from src.evaluation.labelled import training_set
from src.evaluation.landscape import (
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
from src.report.example import Example, WeightPath
from src.report.plots import DASHES, INKS, Canvas, Plot, Plots, legend_below, panel

MOST_FLOPS = 1.5e11
GRIDS = (25, 17, 11)
LINE_POINTS = 25
CURVE_STEPS = 80
CURVE_POSITIONS = 5
UNION = "union"


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """Losses around three models. Sets are ``d1``, ``d2``, ... and ``union``: training samples of each."""

    points: Mapping[str, tuple[float, float]]
    """Model -> its coordinates in the plane."""
    xs: Floats
    ys: Floats
    losses: Mapping[str, Floats]
    """Set -> losses [y, x] over `ys`, `xs`."""
    paths: Mapping[str, Floats]
    """Regime -> coordinates of its path [n, 2]."""
    profiles: Mapping[str, Floats]
    """Union losses along the straight lines between the models, and along a curve of low loss between the ends of the
    two regimes unless that is too costly."""
    off_path: float
    """Least distance from the other regime's end to the staged regime's path through its last stage, relative to the
    length of that stage."""
    n_samples: int


def measure(example: Example, paths: Mapping[str, WeightPath]) -> Landscape:
    """The landscape of one example; raises MissingEvidence where it would take too long or the points span no plane."""
    for n_grid in GRIDS:
        try:
            n = example.samples_within(MOST_FLOPS, n_grid**2 + 4 * LINE_POINTS, least=100)
            break
        except MissingEvidence:
            if n_grid == GRIDS[-1]:
                raise
    parts = {f"d{k}": samples for k, samples in enumerate(example.stream.train, start=1) if len(samples)}
    shares = {name: len(samples) / sum(map(len, parts.values())) for name, samples in parts.items()}
    sets = {}
    for name, part in parts.items():
        samples = training_set(part, example.dtype, max(20, round(n * shares[name])))
        sets[name] = (samples.x, samples.y)
    n_samples = sum(len(y) for _, y in sets.values())
    surface = Surface(example.model, sets, example.cell.config.loss)

    first, last = (surface.vector(example.finals[example.staged][k].weights) for k in (0, -1))
    other = surface.vector(example.finals[example.other][-1].weights)
    models = {"Dataset 1": first, example.staged: last, example.other: other}
    try:
        plane = plane_through(first, last, other)
    except ValueError as error:
        raise MissingEvidence(str(error)) from None
    on_path = {name: [surface.vector(w) for w in path.weights] for name, path in paths.items()}
    points = {name: plane.coordinates(model) for name, model in models.items()}
    left, right, bottom, top = window(list(points.values()), margin=0.35)
    xs, ys = np.linspace(left, right, n_grid), np.linspace(bottom, top, n_grid)
    grid = _losses(surface, [plane.at(x, y) for y in ys for x in xs], shares)
    staged = paths[example.staged]
    boundary = staged.boundaries[-1] if staged.boundaries else 0
    stage = on_path[example.staged][max(k for k, update in enumerate(staged.updates) if update <= boundary) :]

    def profile(point_at: Callable[[float], Tensor]) -> Floats:
        return _losses(surface, [point_at(t) for t in along(LINE_POINTS)], shares)[UNION]

    def union_loss(point: Tensor) -> Tensor:
        return torch.stack([surface.loss_of(name)(point) * share for name, share in shares.items()]).sum()

    ends = (("Dataset 1", example.staged), (example.staged, example.other), ("Dataset 1", example.other))
    profiles = {f"{a} → {b}": profile(partial(interpolate, models[a], models[b])) for a, b in ends}
    # A backward pass costs about two forward ones, hence the factor 3.
    if 3 * CURVE_STEPS * CURVE_POSITIONS * n_samples * example.forward_flops <= MOST_FLOPS:
        control = connect(union_loss, last, other, n_steps=CURVE_STEPS, n_positions=CURVE_POSITIONS)
        profiles[f"curve {example.staged} → {example.other}"] = profile(partial(bezier, last, control, other))
    return Landscape(
        points=points,
        xs=xs,
        ys=ys,
        losses={name: values.reshape(n_grid, n_grid) for name, values in grid.items()},
        paths={name: np.array([plane.coordinates(w) for w in path]) for name, path in on_path.items()},
        profiles=profiles,
        off_path=distance_to_path(stage, other) / max(float((stage[-1] - stage[0]).norm()), 1e-12),
        n_samples=n_samples,
    )


def _losses(surface: Surface, points: Sequence[Tensor], shares: Mapping[str, float]) -> dict[str, Floats]:
    """Losses of every data set and of their union, weighted by size."""
    losses = {name: np.array(values) for name, values in surface.losses(points).items()}
    return {**losses, UNION: np.sum([losses[name] * share for name, share in shares.items()], axis=0)}


def landscape_plots(example: Example, paths: Mapping[str, WeightPath], canvas: Canvas) -> Plots:
    """The planes of the first two data sets and the union, and the losses between the models."""
    found = measure(example, paths)
    names = [*[name for name in found.losses if name != UNION][:2], UNION]
    plots = [_plane(example, found, name, canvas) for name in names]
    plots.append(_barriers(found.profiles, canvas))
    notes = [
        f"Losses are means over {found.n_samples:,} training samples. The paths leave the plane and are drawn as their "
        f"projection onto it. The end of {example.other} lies {100 * found.off_path:.0f} % of the last stage's length "
        f"away from the nearest point of {example.staged}'s path through that stage: 0 % would mean that training "
        "passed through it."
    ]
    for name, path in paths.items():
        if path.why_not_retrained:
            notes.append(f"The path of {name} is drawn between the ends of its stages only: {path.why_not_retrained}.")
        elif not path.exact:
            notes.append(f"The path of {name} was retrained and ends near, not exactly at, the stored weights.")
    if len(found.profiles) < 4:
        notes.append("The curve of low loss is left out: computing it takes too long for this network.")
    return Plots(plots=tuple(plots), notes=tuple(notes))


def _plane(example: Example, found: Landscape, name: str, canvas: Canvas) -> Plot:
    from matplotlib.colors import LogNorm
    from matplotlib.patheffects import withStroke

    losses, styles = found.losses[name], canvas.styles
    finite = np.concatenate([grid[np.isfinite(grid)].ravel() for grid in found.losses.values()])
    low, high = max(float(finite.min()), 1e-4), float(np.quantile(finite, 0.97))
    high = max(high, low * 3)
    levels = np.geomspace(low, high, 13)
    ax = panel(f"loss on {set_title(name)}", "distance in weight space", "", size=(4.3, 4.0))
    ax.grid(visible=False)
    grid = (found.xs, found.ys, np.clip(np.where(np.isfinite(losses), losses, np.inf), low, high))
    filled = ax.contourf(*grid, levels=levels, cmap="cividis_r", norm=LogNorm(low, high), extend="both")
    ax.contour(*grid, levels=levels[::2], colors="#ffffff", linewidths=0.5, alpha=0.6)
    halo = [withStroke(linewidth=3.2, foreground="white")]
    for regime, path in found.paths.items():
        ax.plot(path[:, 0], path[:, 1], **styles[regime].line, linewidth=1.6, path_effects=halo, zorder=3)
    markers = {"Dataset 1": ("#111111", "D")}
    markers |= {regime: (styles[regime].ink, styles[regime].marker) for regime in (example.staged, example.other)}
    for model, (x, y) in found.points.items():
        ink, marker = markers[model]
        ax.plot([x], [y], marker=marker, color=ink, markersize=8, mec="white", mew=1.2, zorder=4)
        side, offset = ("left", 9) if x <= found.xs.mean() else ("right", -9)
        font: dict[str, Any] = {"ha": side, "fontsize": 8, "fontweight": "bold", "color": ink, "path_effects": halo}
        shift = (offset, -14 if model == "Dataset 1" else 7)
        ax.annotate(model, (x, y), shift, textcoords="offset points", zorder=5, **font)
    ax.set_xlim(found.xs[0], found.xs[-1])
    ax.set_ylim(found.ys[0], found.ys[-1])
    ax.set_aspect("equal")
    figure = ax.get_figure(root=True)
    assert figure is not None, "a panel has one"
    bar = figure.colorbar(filled, ax=ax, shrink=0.82, pad=0.02)
    ticks = [value for value in (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if low <= value <= high]
    bar.set_ticks(ticks, labels=[f"{value:g}" for value in ticks])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=7)
    nearest = {
        model: losses[np.abs(found.ys - y).argmin(), np.abs(found.xs - x).argmin()]
        for model, (x, y) in found.points.items()
    }
    at = ", ".join(f"{loss:.2g} at {model}" for model, loss in nearest.items())
    alt = f"Contours of the training loss on {set_title(name)} over the plane through three trained models; about {at}."
    return canvas.save(ax, f"landscape-{name}", alt)


def _barriers(profiles: Mapping[str, Floats], canvas: Canvas) -> Plot:
    title = "union loss between the models"
    ax = panel(title, "position between the two models", "loss on the union (log)", size=(4.3, 4.0))
    styles = [*((INKS[2 + k], DASHES[k], 1.6) for k in range(3)), ("#111111", DASHES[3], 1.8)]
    for (tag, losses), (ink, dash, width) in zip(profiles.items(), styles, strict=False):
        ax.plot(along(LINE_POINTS), losses, color=ink, linestyle=dash, linewidth=width, label=tag)
    ax.set_yscale("log")
    legend_below(ax, columns=2)
    heights = "; ".join(f"{tag} {barrier(losses.tolist()):.2g}" for tag, losses in profiles.items())
    alt = (
        "Lines of the union's training loss along straight lines between the three models, and along a curve trained "
        f"to stay low. Barriers (above the higher end): {heights}."
    )
    caption = f"A hump is a barrier. Heights above the higher end: {heights}."
    return canvas.save(ax, "landscape-ways", alt, caption=caption)
