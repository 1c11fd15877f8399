"""The pictures of drift update by update: layers that move, classes that are expected, accuracy that is lost and regained."""

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
from src.report.style import Look, Picture, label, legend_below, looks, mark_stages, panel, picture

Groups = Sequence[tuple[str, Sequence[str]]]
MOST_FLOPS = 1e11
HIGHLIGHTED = 4
GAP_UPDATES = 50
"""Updates of the last stage in which the stability gap is shown."""


def movement(example: Example, path: WeightPath, groups: Groups, styles: Mapping[str, Look], folder: Path) -> Picture:
    """Movement since the start of the present stage, update by update, of the staged run."""
    figure, ax = panel()
    edges = [0, *path.boundaries, path.updates[-1]]
    final = {}
    for first, last in itertools.pairwise(edges):
        at = [k for k, u in enumerate(path.updates) if first <= u <= last]
        base = path.weights[at[0]]
        moved = [relative_movement(base, path.weights[k], groups) for k in at]
        for name, _ in groups:
            y = np.array([np.nan if (v := one[name]) is None else v for one in moved])
            style = styles[name]
            x = [path.updates[k] for k in at]
            ax.plot(x, y, color=style.ink, linestyle=style.dash, linewidth=1.6, label=name if first == 0 else None)
            final[name] = float(y[-1])
    mark_stages(ax, path.boundaries)
    if len(groups) <= 8:
        legend_below(figure, *ax.get_legend_handles_labels(), columns=4)
    label(ax, f"{example.staged}: movement within the stage", "updates", "|w − w₀| / |w₀|")
    order = ", ".join(f"{name} {value:.2f}" for name, value in sorted(final.items(), key=lambda item: -item[1])[:4])
    return picture(
        figure,
        folder,
        "drift-updates",
        f"Lines of each layer's movement since its stage began, seed {example.seed}; at the end: {order}.",
        caption="The same, update by update, counted anew from the boundary: the line that rises first is the layer that "
        "gives way first.",
    )


def class_names(example: Example) -> list[str]:
    """Names of the classes, or their numbers."""
    names = example.factory.class_names
    return list(names) if names is not None else [str(k) for k in range(example.stream.n_outputs)]


def _logits(example: Example, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    example.model.load_state_dict(dict(weights))
    with torch.no_grad():
        logits: Tensor = example.model.eval()(x)
    return logits


def dtype_of(example: Example) -> torch.dtype:
    return next(example.model.parameters()).dtype


def probabilities(example: Example, path: WeightPath, folder: Path) -> Picture:
    """Mean predicted probability of every class on Dataset 1's held-out samples, along the staged run."""
    n = example.samples_within(MOST_FLOPS, len(path.weights))
    data = evaluation_set(example.stream.val, "d1", dtype_of(example), n)
    values = np.stack([mean_probabilities(_logits(example, w, data.x), data.weights).numpy() for w in path.weights])
    counts = np.array(example.stream.class_counts, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = class_names(example)
    boundary = path.updates.index(path.boundaries[0]) if path.boundaries else 0
    moved = values[-1] - values[boundary]
    absent = [k for k in range(len(names)) if shares[-1][k] == 0 and shares[:, k].any()]
    chosen = list(dict.fromkeys([*absent, *np.argsort(-np.abs(moved)).tolist()]))[: max(HIGHLIGHTED, len(absent[:6]))]
    styles = looks([names[k] for k in chosen], first=2)
    figure, ax = panel()
    for k in range(len(names)):
        if k not in chosen:
            ax.plot(path.updates, 100 * values[:, k], color="#bdbdbd", linewidth=0.8)
    for k in chosen:
        style = styles[names[k]]
        ax.plot(path.updates, 100 * values[:, k], color=style.ink, linestyle=style.dash, linewidth=1.7)
        ax.plot(
            [path.updates[-1] * 1.02], [100 * shares[-1][k]], marker="<", color=style.ink, markersize=5, clip_on=False
        )
    mark_stages(ax, path.boundaries)
    handles = [
        ax.plot([], [], color=styles[names[k]].ink, linestyle=styles[names[k]].dash, linewidth=1.7)[0] for k in chosen
    ]
    tags = [names[k] + (" (absent from the last data set)" if k in absent else "") for k in chosen]
    ax.set_ylim(0, 108 * max(values.max(), shares[-1].max()))
    legend_below(figure, handles, tags, columns=2 if absent else 4)
    label(ax, f"{example.staged}: predicted classes on Dataset 1", "updates", "mean probability, %")
    said = ", ".join(f"{names[k]} from {100 * values[boundary][k]:.0f} to {100 * values[-1][k]:.0f} %" for k in chosen)
    shown = "update by update" if path.watched else "at the ends of the stages"
    grey = "; grey: the other classes" if len(chosen) < len(names) else ""
    return picture(
        figure,
        folder,
        "drift-probabilities",
        f"Mean predicted probability of classes on Dataset 1's held-out samples, {shown}. In the last stage: {said}.",
        caption="What the network expects to see, on samples of Dataset 1: look how fast the lines leave their level after "
        f"the boundary for the last data set's class shares (triangles at the right{grey}).",
    )


def stability_gap(example: Example, path: WeightPath, styles: Mapping[str, Look], folder: Path) -> Picture:
    """Accuracy on the held-out samples of every data set, update by update, where the last stage begins.

    De Lange, van de Ven & Tuytelaars 2023: accuracy on earlier data falls within tens of updates and may partly come back.
    """
    begun = path.boundaries[-1]
    shown = [k for k, u in enumerate(path.updates) if begun <= u <= begun + GAP_UPDATES]
    sets = [name for name in example.stream.val.sets if name != "union"]
    n = example.samples_within(MOST_FLOPS, len(sets) * (len(shown) + 1))
    figure, ax = panel()
    said = []
    for name in sets:
        data = evaluation_set(example.stream.val, name, dtype_of(example), n)
        right = [_logits(example, path.weights[k], data.x).argmax(dim=-1) == data.y for k in (*shown, -1)]
        *values, end = [100 * float(data.weights @ one.double()) for one in right]
        x, style = [path.updates[k] - begun for k in shown], styles[name]
        named = f"Dataset {name[1:]}"
        ax.plot(x, values, color=style.ink, linestyle=style.dash, marker=style.marker, markersize=3, label=named)
        ax.plot([x[-1] * 1.04], [end], marker="<", color=style.ink, markersize=5, clip_on=False)
        lowest = int(np.argmin(values))
        said.append(
            f"{named} from {values[0]:.0f} %, lowest {values[lowest]:.0f} % after {x[lowest]}, at the end {end:.0f} %"
        )
    ax.set_xlim(0, x[-1])
    legend_below(figure, *ax.get_legend_handles_labels(), columns=4)
    label(
        ax, f"{example.staged}: the last stage's first updates", "updates since the boundary", "validation accuracy, %"
    )
    return picture(
        figure,
        folder,
        "drift-gap",
        f"Lines of validation accuracy over the first updates of the last stage, seed {example.seed}: {'; '.join(said)}.",
        caption="The stability gap: how deep earlier data fall right after the boundary, and how much of it comes back by the "
        "stage's end (triangles at the right).",
    )
