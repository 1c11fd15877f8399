"""Drift update by update: movement of the layers, predicted classes, accuracy after the stage boundary."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.evaluation.drift import mean_probabilities, relative_movement
from src.evaluation.labelled import evaluation_set
from src.report.example import Example, WeightPath
from src.report.plots import LineStyle, Plot, legend_below, line_styles, mark_stages, panel, save_plot

Groups = Sequence[tuple[str, Sequence[str]]]
MOST_FLOPS = 1e11
HIGHLIGHTED = 4
GAP_UPDATES = 50
"""Updates of the last stage in which the stability gap is shown."""


def movement(example: Example, path: WeightPath, groups: Groups, styles: Mapping[str, LineStyle], folder: Path) -> Plot:
    """Movement of each layer since the start of its stage, of the staged run."""
    figure, ax = panel(f"{example.staged}: movement within the stage", "updates", "|w − w₀| / |w₀|")
    final = {}
    for first, last in itertools.pairwise([0, *path.boundaries, path.updates[-1]]):
        points = [k for k, update in enumerate(path.updates) if first <= update <= last]
        moved = [relative_movement(path.weights[points[0]], path.weights[k], groups) for k in points]
        for name, _ in groups:
            y = np.array([np.nan if (v := one[name]) is None else v for one in moved])
            x = [path.updates[k] for k in points]
            ax.plot(x, y, **styles[name].line, linewidth=1.6, label=name if first == 0 else None)
            final[name] = float(y[-1])
    mark_stages(ax, path.boundaries)
    if len(groups) <= 8:
        legend_below(figure, *ax.get_legend_handles_labels(), columns=4)
    order = ", ".join(f"{name} {value:.2f}" for name, value in sorted(final.items(), key=lambda item: -item[1])[:4])
    alt = f"Lines of each layer's movement since the start of its stage, seed {example.seed}; at the end: {order}."
    caption = (
        "The same for every update, measured from the boundary: the line that rises first is the layer that "
        "changes first."
    )
    return save_plot(figure, folder, "drift-updates", alt, caption=caption)


def dtype_of(example: Example) -> torch.dtype:
    """The floating-point type of the network's weights."""
    return next(example.model.parameters()).dtype


def _logits(example: Example, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    example.model.load_state_dict(dict(weights))
    with torch.no_grad():
        logits: Tensor = example.model.eval()(x)
    return logits


def probabilities(example: Example, path: WeightPath, folder: Path) -> Plot:
    """Mean predicted probability of every class on Dataset 1's held-out samples, along the staged run."""
    n = example.samples_within(MOST_FLOPS, len(path.weights))
    data = evaluation_set(example.stream.val, "d1", dtype_of(example), n)
    values = np.stack([mean_probabilities(_logits(example, w, data.x), data.weights).numpy() for w in path.weights])
    counts = np.array(example.stream.class_counts, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = list(example.factory.class_names or map(str, range(example.stream.n_outputs)))
    boundary = path.updates.index(path.boundaries[0]) if path.boundaries else 0
    moved = values[-1] - values[boundary]
    absent = [k for k in range(len(names)) if shares[-1][k] == 0 and shares[:, k].any()]
    chosen = list(dict.fromkeys([*absent, *np.argsort(-np.abs(moved)).tolist()]))[: max(HIGHLIGHTED, len(absent[:6]))]
    styles = line_styles([names[k] for k in chosen], first=2)
    figure, ax = panel(f"{example.staged}: predicted classes on Dataset 1", "updates", "mean probability, %")
    others = [k for k in range(len(names)) if k not in chosen]
    ax.plot(path.updates, 100 * values[:, others], color="#bdbdbd", linewidth=0.8)
    handles = []
    for k in chosen:
        style = styles[names[k]]
        handles += ax.plot(path.updates, 100 * values[:, k], **style.line, linewidth=1.7)
        share = ([path.updates[-1] * 1.02], [100 * shares[-1][k]])
        ax.plot(*share, marker="<", color=style.ink, markersize=5, clip_on=False)
    mark_stages(ax, path.boundaries)
    tags = [names[k] + (" (absent from the last data set)" if k in absent else "") for k in chosen]
    ax.set_ylim(0, 108 * max(values.max(), shares[-1].max()))
    legend_below(figure, handles, tags, columns=2 if absent else 4)
    ends = ", ".join(f"{names[k]} from {100 * values[boundary][k]:.0f} to {100 * values[-1][k]:.0f} %" for k in chosen)
    shown = "update by update" if path.retrained else "at the ends of the stages"
    alt = f"Mean predicted probability of classes on Dataset 1's held-out samples, {shown}. In the last stage: {ends}."
    caption = (
        "The classes that the network expects on samples of Dataset 1: see how fast the lines leave their level after "
        f"the boundary for the last data set's class shares (triangles at the right{'; grey: other classes' if others else ''})."
    )
    return save_plot(figure, folder, "drift-probabilities", alt, caption=caption)


def stability_gap(example: Example, path: WeightPath, styles: Mapping[str, LineStyle], folder: Path) -> Plot:
    """Validation accuracy on every data set over the first updates of the last stage.

    De Lange, van de Ven & Tuytelaars 2023: accuracy on earlier data falls within tens of updates and may partly recover.
    """
    start = path.boundaries[-1]
    shown = [k for k, update in enumerate(path.updates) if start <= update <= start + GAP_UPDATES]
    sets = [name for name in example.stream.val.sets if name != "union"]
    n = example.samples_within(MOST_FLOPS, len(sets) * (len(shown) + 1))
    title = f"{example.staged}: the last stage's first updates"
    figure, ax = panel(title, "updates since the boundary", "validation accuracy, %")
    x = [path.updates[k] - start for k in shown]
    summaries = []
    for name in sets:
        data = evaluation_set(example.stream.val, name, dtype_of(example), n)
        correct = [_logits(example, path.weights[k], data.x).argmax(dim=-1) == data.y for k in (*shown, -1)]
        *values, end = [100 * float(data.weights @ one.double()) for one in correct]
        style, title = styles[name], f"Dataset {name[1:]}"
        ax.plot(x, values, **style.line, marker=style.marker, markersize=3, label=title)
        ax.plot([x[-1] * 1.04], [end], marker="<", color=style.ink, markersize=5, clip_on=False)
        low = int(np.argmin(values))
        summaries.append(
            f"{title} from {values[0]:.0f} %, lowest {values[low]:.0f} % after {x[low]}, at the end {end:.0f} %"
        )
    ax.set_xlim(0, x[-1])
    legend_below(figure, *ax.get_legend_handles_labels(), columns=4)
    alt = f"Lines of validation accuracy over the first updates of the last stage, seed {example.seed}: {'; '.join(summaries)}."
    caption = (
        "The stability gap: how far accuracy on earlier data falls right after the boundary, and how much of it recovers "
        "by the end of the stage (triangles at the right)."
    )
    return save_plot(figure, folder, "drift-gap", alt, caption=caption)
