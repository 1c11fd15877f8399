"""The results of a search as plots: by Optuna, or as a map with the boundary, its band and the measured cells.

A boundary's result also stands in words and tables.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from src.axes import axis_label, axis_of
from src.comparison.tables import csv_text
from src.comparison.units import Unit, name_of, unit_of
from src.io import write_atomically
from src.sweep.search.boundary import LEVELS, N_FIRST, WRONG, Floats, Map, MeasuredPoint, Scale, map_of, measured
from src.sweep.search.search import Search
from src.sweep.search.trials import Searched

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST = 8
"""Trials with a value from which an importance is given; it is a matter of chance with fewer."""
SLICES = (0.0, 0.5, 1.0)
"""Places on the third axis of the maps that are drawn."""


def draw(search: Search, trials: Sequence[FrozenTrial], folder: Path, unit: Unit) -> list[Path]:
    """Draws the values in the order of the trials, against each parameter, and the importance of the parameters."""
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as visualization

    valued = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    study = optuna.create_study(direction=search.objective.goal)
    study.add_trials(trials)
    text = f"{search.objective.text}, {unit.of_values}" if unit.of_values else search.objective.text
    shown: dict[str, Any] = {"target": lambda trial: unit.scale * trial.values[0], "target_name": text}
    plots: dict[str, Callable[[], Any]] = {}
    if valued:
        plots["history"] = lambda: visualization.plot_optimization_history(study, **shown)
        plots["trials"] = lambda: visualization.plot_slice(study, **shown)
    if len(search.space) > 1 and len(valued) >= FEWEST and len({trial.values[0] for trial in valued}) > 1:
        plots["importances"] = lambda: visualization.plot_param_importances(
            study
        )  # for the values that the search wants
    paths = []
    for name, plot in plots.items():
        with warnings.catch_warnings(), plt.style.context("default"):  # Optuna sets a style of its own
            warnings.simplefilter("ignore")  # of experimental plots, and of a single trial
            figure = np.ravel(plot())[0].figure
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=150, bbox_inches="tight")
        plt.close(figure)
    return paths


def known(searched: Searched) -> tuple[list[MeasuredPoint], Map] | None:
    """The measured points and the map; None while there are too few."""
    points = measured(searched.trials, searched.search.space)
    return (points, map_of(points, len(searched.search.space))) if len(points) >= 3 else None


def boundary_sentences(searched: Searched) -> list[str]:
    """How much of the map is certain, at which price, and who is better on how much of it."""
    search, found = searched.search, known(searched)
    if found is None:
        return [f"{len(searched.trials)} of at least {N_FIRST} visits have ended: there is no map yet."]
    points, here = found
    a, b = search.objective.of
    certain, positive = here.wrong <= WRONG, here.mean > 0
    if not unit_of(search.objective.metric).higher_is_better:
        positive = ~positive
    n_seeds = sum(len(point.differences) for point in points)
    limit = "" if here.certain >= search.config.certain else f", short of search.certain={search.config.certain:g}"
    return [
        f"The better regime in {name_of(search.objective.metric)} is certain on {here.certain:.0%} of the map{limit}: "
        f"{a} on "
        f"{np.mean(certain & positive):.0%}, {b} on {np.mean(certain & ~positive):.0%}. Measured: {len(points)} cells, "
        f"{n_seeds} seeds, {2 * n_seeds} runs. A sign is certain if the model gives it {1 - WRONG:.0%}; it is no test "
        "of a cell."
    ]


def crossings(here: Map, n_axes: int) -> list[tuple[Floats, float, float, float]]:
    """The boundary along the last axis: (place on the other axes, crossing, lower end, upper end of the band)."""
    n = LEVELS[n_axes]
    rows = []
    for start in range(0, len(here.mean), n):
        mean, wrong, place = (of[start : start + n] for of in (here.mean, here.wrong, here.where[:, -1]))
        for k in np.flatnonzero(np.signbit(mean[1:]) != np.signbit(mean[:-1])):
            at = place[k] + (place[k + 1] - place[k]) * mean[k] / (mean[k] - mean[k + 1])
            below = next((place[j] for j in range(k, -1, -1) if wrong[j] <= WRONG), 0.0)
            above = next((place[j] for j in range(k + 1, n) if wrong[j] <= WRONG), 1.0)
            rows.append((here.where[start, :-1], float(at), float(below), float(above)))
    return rows


def write_boundary(searched: Searched) -> list[Path]:
    """Writes map.csv, boundary.csv and boundary.png to the search's folder."""
    found, folder, space = known(searched), searched.folder, searched.search.space
    if found is None:
        return []
    points, here = found
    keys = list(space)

    def settings(where: Sequence[float] | Floats) -> list[str]:
        return [f"{Scale.of(space[key]).value(share):.6g}" for share, key in zip(where, keys, strict=True)]

    rows: list[Sequence[object]] = [(*keys, "effect", "deviation", "wrong")]
    table = np.column_stack([here.mean, here.deviation, here.wrong])
    rows += [(*settings(where), *(f"{x:.4g}" for x in row)) for where, row in zip(here.where, table, strict=True)]
    write_atomically(folder / "map.csv", csv_text(rows).encode())
    lines: list[Sequence[object]] = [(*keys, "band_low", "band_high")]
    for others, *band in crossings(here, len(keys)):
        lines.append((*settings([*others, band[0]]), *(settings([*others, end])[-1] for end in band[1:])))
    write_atomically(folder / "boundary.csv", csv_text(lines).encode())
    _draw(searched, points, here, folder / "boundary.png")
    return [folder / "map.csv", folder / "boundary.csv", folder / "boundary.png"]


def _draw(searched: Searched, points: Sequence[MeasuredPoint], here: Map, path: Path) -> None:
    """A panel, or one for each of three values of the third axis."""
    from matplotlib.figure import Figure

    search, keys = searched.search, list(searched.search.space)
    slices = [None] if len(keys) == 2 else list(SLICES)
    figure = Figure(figsize=(5.6 * len(slices) + 1.0, 4.8), dpi=150, layout="constrained")
    panels = np.ravel(figure.subplots(1, len(slices)))
    for axes, third in zip(panels, slices, strict=True):
        mesh = _panel(axes, searched, points, here, third)
        if third is not None:
            axes.set_title(f"{_name(keys[2])} = {Scale.of(search.space[keys[2]]).value(third):.3g}", fontsize=9)
    a, b = search.objective.of
    bar = figure.colorbar(mesh, ax=panels, extend="both")
    bar.set_label(f"effect of {a} - {b}, standard deviations of a seed\n{name_of(search.objective.metric)}")
    figure.suptitle(
        f"The sign is certain on {here.certain:.0%} of the map; line and band: where it changes", fontsize=10
    )
    figure.savefig(path)


def _panel(axes: Axes, searched: Searched, points: Sequence[MeasuredPoint], here: Map, third: float | None) -> Any:
    """Map, certainty (hatched where the sign is not certain), boundary, and the cells with their seeds."""
    space = searched.search.space
    keys, n = list(space)[:2], LEVELS[len(space)]
    level = 0 if third is None else round(third * (n - 1))
    shape = (n, n) if third is None else (n, n, n)
    mean, wrong = (
        of.reshape(shape) if third is None else of.reshape(shape)[:, :, level] for of in (here.mean, here.wrong)
    )
    scales = [Scale.of(space[key]) for key in keys]
    x, y = ([scale.value(share) for share in np.linspace(0, 1, n)] for scale in scales)
    mesh = axes.contourf(x, y, mean.T, levels=np.linspace(-3, 3, 25), cmap="PuOr_r", extend="both")
    axes.contourf(x, y, wrong.T, levels=[WRONG, 1], colors="none", hatches=["////"])
    axes.contour(x, y, wrong.T, levels=[WRONG], colors="0.35", linewidths=0.8, linestyles="--")
    axes.contour(x, y, mean.T, levels=[0], colors="black", linewidths=2)
    shown = [point for point in points if third is None or abs(point.where[2] - third) <= 0.5 / len(SLICES) + 1e-9]
    places = [[scale.value(share) for share, scale in zip(point.where, scales, strict=False)] for point in shown]
    if shown:
        sizes = [6 * len(point.differences) for point in shown]
        across, down = zip(*places, strict=True)
        axes.scatter(across, down, s=sizes, facecolors="white", edgecolors="black", linewidths=0.8, zorder=3)
    axes.set(xlabel=_name(keys[0]), ylabel=_name(keys[1]))
    kinds = ["log" if scale.is_log else "linear" for scale in scales]
    axes.set(xscale=kinds[0], yscale=kinds[1])
    return mesh


def _name(key: str) -> str:
    return axis_label(axis) if (axis := axis_of(key)) is not None and axis != "shift" else key
