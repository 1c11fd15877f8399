"""Drift: how far each layer moves, what the classes and accuracies do along the way, and which part recovers Dataset
1."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from src.claims.cell import MissingEvidence
from src.comparison.units import set_title
from src.evaluation.drift import feature_probe, mean_probabilities, relative_movement, restoration
from src.evaluation.labelled import evaluation_set, training_set
from src.models.build import build_model
from src.models.structure import layers
from src.report.example import Example, WeightPath
from src.report.plots import (
    HATCHES,
    INKS,
    PANEL,
    Canvas,
    Plot,
    Plots,
    bars,
    end_marker,
    legend_below,
    line_styles,
    mark_stages,
    panel,
)
from src.training.result import StageResult

MOST_SEEDS = 12
MOST_LAYERS = 24
MOST_FLOPS = 1e11
HIGHLIGHTED = 4
GAP_UPDATES = 50
"""Updates of the last stage in which the stability gap is shown."""

PARTS = {
    "earlier": "before the last stage",
    "later": "after the last stage",
    "bias": "bias restored",
    "effective bias": "mean outputs restored",
    "head": "head restored",
    "features": "features restored",
    "earlier probe": "linear probe before",
    "later probe": "linear probe after",
}
"""What `restoration` and the probes measure -> the bar's label."""

Groups = Sequence[tuple[str, Sequence[str]]]


def drift_plots(example: Example, path: WeightPath, canvas: Canvas) -> Plots:
    """The plots of one example; bars average over the seeds of its cell."""
    groups = [(name or "weights", parameters) for name, parameters in layers(example.model)[:MOST_LAYERS]]
    draws: list[Callable[[], Plot]] = [lambda: _movement_bars(example, groups, canvas)]
    notes = [f"Movement per update is not shown: {path.why_not_retrained}."] if path.why_not_retrained else []
    if not path.why_not_retrained:
        draws.append(lambda: _movement(example, path, groups, canvas))
    if not example.stream.train[0].y.is_floating_point():  # a regression has no classes
        draws.append(lambda: _probabilities(example, path, canvas))
        if not path.why_not_retrained and path.boundaries:
            draws.append(lambda: _stability_gap(example, path, canvas))
        draws.append(lambda: _restorations(example, canvas))
    plots = []
    for draw in draws:
        try:
            plots.append(draw())
        except (MissingEvidence, ValueError) as why:
            notes.append(f"A plot is missing: {why}.")
    return Plots(plots=tuple(plots), notes=tuple(notes))


def _stages_by_seed(example: Example, regime: str) -> list[tuple[int, list[StageResult]]]:
    """(seed, stage results) of a regime's runs whose weights are in the store."""
    found = []
    for seed in sorted({seed for _, seed in example.cell.runs})[:MOST_SEEDS]:
        if (regime, seed) in set(example.cell.finished()):
            with suppress(MissingEvidence):
                found.append((seed, example.cell.stages(regime, seed)))
    return found


def _movement_bars(example: Example, groups: Groups, canvas: Canvas) -> Plot:
    """Movement of each layer in each stage."""
    names = [name for name, _ in groups]
    steps: dict[str, list[dict[str, float | None]]] = {}
    series: list[tuple[str, str, str]] = []
    stream, arch = example.stream, example.cell.config.arch
    for regime in (example.staged, example.other):
        for seed, results in _stages_by_seed(example, regime):
            before: Mapping[str, Tensor] = build_model(arch, stream.input_shape, stream.n_outputs, seed).state_dict()
            for number, result in enumerate(results):
                step = f"{regime}, stage {number + 1}" if len(results) > 1 else regime
                if step not in steps:
                    series.append((step, canvas.styles[regime].ink, HATCHES[number % 4]))
                steps.setdefault(step, []).append(relative_movement(before, result.weights, groups))
                before = result.weights
    size = (max(PANEL[0], min(8.0, 1.5 + 0.36 * len(names) * len(steps))), PANEL[1])
    ax = panel("movement of each layer in each stage", "layer, input to output", "|w₁ − w₀| / |w₀|", size=size)
    values = [[[v for one in steps[step] if (v := one[name]) is not None] for name in names] for step, *_ in series]
    means = bars(ax, series, values)
    ax.set_xticks(range(len(names)), names, fontsize=7)
    if sum(map(len, names)) > 44:
        ax.tick_params(axis="x", labelrotation=60)
    legend_below(ax)
    tops = [(m, f"{names[k]} in {series[s][0]}") for s, of in enumerate(means) for k, m in enumerate(of) if m == m]
    largest, where = max(tops, default=(0.0, ""))
    n = max(map(len, steps.values()), default=0)
    alt = f"Bars of relative movement by layer and stage, mean of {n} seeds; largest {largest:.2f}, {where}."
    caption = (
        "How far each layer's weights move in a stage, relative to their norm at its start: compare the second stage "
        "(hatched) with the first, and the last layer with the earlier ones."
    )
    return canvas.save(ax, "drift-layers", alt, caption=caption)


def _movement(example: Example, path: WeightPath, groups: Groups, canvas: Canvas) -> Plot:
    """Movement of each layer since the start of its stage, of the staged run."""
    styles = line_styles([name for name, _ in groups], first=2)
    ax = panel(f"{example.staged}: movement within the stage", "updates", "|w − w₀| / |w₀|")
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
        legend_below(ax, columns=4)
    order = ", ".join(f"{name} {value:.2f}" for name, value in sorted(final.items(), key=lambda item: -item[1])[:4])
    alt = f"Lines of each layer's movement since the start of its stage, seed {example.seed}; at the end: {order}."
    caption = (
        "The same for every update, measured from the boundary: the line that rises first is the layer that "
        "changes first."
    )
    return canvas.save(ax, "drift-updates", alt, caption=caption)


def _probabilities(example: Example, path: WeightPath, canvas: Canvas) -> Plot:
    """Mean predicted probability of every class on Dataset 1's held-out samples, along the staged run."""
    n = example.samples_within(MOST_FLOPS, len(path.weights))
    data = evaluation_set(example.stream.val, "d1", example.dtype, n)
    with torch.no_grad():
        logits = [example.loaded(weights)(data.x) for weights in path.weights]
    values = 100 * np.stack([mean_probabilities(one, data.weights).numpy() for one in logits])
    counts = np.array(example.stream.class_counts, dtype=np.float64)
    shares = 100 * (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    names = list(example.cell.factory.class_names or map(str, range(example.stream.n_outputs)))
    boundary = path.updates.index(path.boundaries[0]) if path.boundaries else 0
    by_change = np.argsort(-np.abs(values[-1] - values[boundary])).tolist()
    absent = [k for k in range(len(names)) if shares[-1][k] == 0 and shares[:, k].any()]
    chosen = list(dict.fromkeys([*absent, *by_change]))[: max(HIGHLIGHTED, len(absent[:6]))]
    styles = line_styles([names[k] for k in chosen], first=2)
    ax = panel(f"{example.staged}: predicted classes on Dataset 1", "updates", "mean probability, %")
    others = [k for k in range(len(names)) if k not in chosen]
    ax.plot(path.updates, values[:, others], color="#bdbdbd", linewidth=0.8)
    handles = []
    for k in chosen:
        handles += ax.plot(path.updates, values[:, k], **styles[names[k]].line, linewidth=1.7)
        end_marker(ax, path.updates[-1] * 1.02, shares[-1][k], styles[names[k]])
    mark_stages(ax, path.boundaries)
    tags = [names[k] + (" (absent from the last data set)" if k in absent else "") for k in chosen]
    ax.set_ylim(0, 1.08 * max(values.max(), shares[-1].max()))
    legend_below(ax, handles, tags, columns=2 if absent else 4)
    ends = ", ".join(f"{names[k]} from {values[boundary][k]:.0f} to {values[-1][k]:.0f} %" for k in chosen)
    shown = "at the ends of the stages" if path.why_not_retrained else "update by update"
    alt = f"Mean predicted probability of classes on Dataset 1's held-out samples, {shown}. In the last stage: {ends}."
    caption = (
        "The classes that the network expects on samples of Dataset 1: see how fast the lines leave their level after "
        "the boundary for the last data set's class shares (triangles at the "
        f"right{'; grey: other classes' if others else ''})."
    )
    return canvas.save(ax, "drift-probabilities", alt, caption=caption)


def _stability_gap(example: Example, path: WeightPath, canvas: Canvas) -> Plot:
    """Validation accuracy on every data set over the first updates of the last stage.

    De Lange, van de Ven & Tuytelaars 2023: accuracy on earlier data falls within tens of updates and may partly
    recover.
    """
    start = path.boundaries[-1]
    shown = [k for k, update in enumerate(path.updates) if start <= update <= start + GAP_UPDATES]
    styles = line_styles(list(example.stream.val.sets), first=2)
    sets = [name for name in example.stream.val.sets if name != "union"]
    n = example.samples_within(MOST_FLOPS, len(sets) * (len(shown) + 1))
    title = f"{example.staged}: the last stage's first updates"
    ax = panel(title, "updates since the boundary", "validation accuracy, %")
    x = [path.updates[k] - start for k in shown]
    summaries = []
    for name in sets:
        data = evaluation_set(example.stream.val, name, example.dtype, n)
        *values, end = [100 * data.accuracy(example.loaded(path.weights[k])) for k in (*shown, -1)]
        style, label = styles[name], set_title(name)
        ax.plot(x, values, **style.line, marker=style.marker, markersize=3, label=label)
        end_marker(ax, x[-1] * 1.04, end, style)
        low = int(np.argmin(values))
        fall = f"{label} from {values[0]:.0f} %, lowest {values[low]:.0f} % after {x[low]}"
        summaries.append(f"{fall}, at the end {end:.0f} %")
    ax.set_xlim(0, x[-1])
    legend_below(ax, columns=4)
    lines = f"Lines of validation accuracy over the first updates of the last stage, seed {example.seed}"
    alt = f"{lines}: {'; '.join(summaries)}."
    caption = (
        "The stability gap: how far accuracy on earlier data falls right after the boundary, and how much of it "
        "recovers by the end of the stage (triangles at the right)."
    )
    return canvas.save(ax, "drift-gap", alt, caption=caption)


def _restorations(example: Example, canvas: Canvas) -> Plot:
    """Accuracy on Dataset 1 with parts of the last stage undone, and of a fresh linear readout of the features."""
    n = example.samples_within(MOST_FLOPS, 12 * MOST_SEEDS)
    scores: dict[str, list[float]] = {}
    for seed, results in _stages_by_seed(example, example.staged):
        earlier, later = (result.weights for result in results[-2:])
        stream = example.stream if seed == example.seed else example.cell.factory.build(seed)
        held_out = evaluation_set(stream.val, "d1", example.dtype, n)
        train = training_set(stream.train[0], example.dtype, n)
        own = restoration(example.model, earlier, later, held_out.x, held_out.accuracy)
        for key, weights in (("earlier probe", earlier), ("later probe", later)):
            own[key] = feature_probe(example.model, weights, train, held_out, stream.n_outputs)
        for key, value in own.items():
            scores.setdefault(key, []).append(100 * value)
    if not scores:
        raise MissingEvidence("no weights are left to restore")
    keys = [key for key in PARTS if key in scores]
    title, size = f"{example.staged}: what recovers Dataset 1", (PANEL[0] + 0.7, PANEL[1])
    ax = panel(title, "accuracy on Dataset 1 (held out), %", "", size=size)
    inks = {"earlier": INKS[5], "later": INKS[0], "earlier probe": INKS[5], "later probe": INKS[0]}
    for row, key in enumerate(reversed(keys)):
        mean = float(np.mean(scores[key]))
        error = float(np.std(scores[key], ddof=1)) if len(scores[key]) > 1 else 0.0
        hatch = "////" if "probe" in key else ""
        ax.barh(row, mean, 0.66, color=inks.get(key, INKS[3]), hatch=hatch, edgecolor="white", linewidth=0.5)
        ax.errorbar(mean, row, xerr=error, fmt="none", ecolor="#222222", elinewidth=0.8, capsize=1.8)
        ax.text(mean + error + 1.5, row, f"{mean:.0f}", va="center", fontsize=7.5)
    ax.set_yticks(range(len(keys)), [PARTS[key] for key in reversed(keys)], fontsize=8)
    ax.set_xlim(0, 111)
    ax.set_xticks(range(0, 101, 20))
    ax.grid(axis="x", color="#e4e4e4", linewidth=0.7)
    ax.grid(axis="y", visible=False)
    means = ", ".join(f"{PARTS[key]} {np.mean(scores[key]):.0f}" for key in keys)
    alt = f"Bars of accuracy on Dataset 1 in percent, mean of {len(scores[keys[0]])} seeds: {means}."
    caption = (
        "If restoring the head (or the mean outputs) recovers Dataset 1, the loss is in the last layer; if the linear "
        "probe has not fallen, the features still separate what the head forgot."
    )
    return canvas.save(ax, "drift-restoration", alt, caption=caption)
