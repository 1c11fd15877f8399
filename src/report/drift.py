"""Drift: how far each layer moves in each stage, and which part of the network to restore to recover Dataset 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from src.comparison.pairing import RunRecord
from src.evaluation.drift import features_and_logits, probe_accuracy, relative_movement, restoration
from src.evaluation.labelled import Labelled, evaluation_set, training_set
from src.models.build import build_model
from src.models.structure import layers
from src.report.example import Example, Unavailable, WeightPath, stages_of
from src.report.plots import (
    HATCHES,
    INKS,
    PANEL,
    LineStyle,
    Plot,
    Plots,
    bars,
    legend_below,
    line_styles,
    panel,
    save_plot,
)
from src.report.trajectory_plots import dtype_of, movement, probabilities, stability_gap
from src.training.result import StageResult

MOST_SEEDS = 12
MOST_LAYERS = 24
MOST_FLOPS = 1e11

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


def drift_plots(
    example: Example, runs: Sequence[RunRecord], path: WeightPath, styles: Mapping[str, LineStyle], folder: Path
) -> Plots:
    """The plots of one example; bars average over the seeds of `runs`, all runs of its cell."""
    groups = [(name or "weights", parameters) for name, parameters in layers(example.model)[:MOST_LAYERS]]
    plots, notes = [_movement_bars(example, runs, styles, folder)], []
    if path.retrained:
        layer_styles = line_styles([name for name, _ in groups], first=2)
        plots.append(movement(example, path, groups, layer_styles, folder))
    else:
        notes.append(f"Movement per update is not shown: {path.why_not_retrained}.")
    if example.stream.train[0].y.is_floating_point():  # regression: no classes
        return Plots(plots=tuple(plots), notes=tuple(notes))
    set_styles = line_styles(list(example.stream.val.sets), first=2)
    draws: list[Callable[[], Plot]] = [
        lambda: probabilities(example, path, folder),
        lambda: _restorations(example, runs, folder),
    ]
    if path.retrained and path.boundaries:
        draws.insert(1, lambda: stability_gap(example, path, set_styles, folder))
    for draw in draws:
        try:
            plots.append(draw())
        except (Unavailable, ValueError) as why:
            notes.append(f"A plot is missing: {why}.")
    return Plots(plots=tuple(plots), notes=tuple(notes))


def _stages_by_seed(
    example: Example, runs: Sequence[RunRecord], regime: str
) -> list[tuple[int, tuple[StageResult, ...]]]:
    """(seed, stage results) of a regime's runs whose weights are in the store."""
    found = []
    for run in sorted(runs, key=lambda run: run.seed):
        if run.regime == regime and not run.diverged and run.seed in sorted({r.seed for r in runs})[:MOST_SEEDS]:
            try:
                found.append((run.seed, stages_of(run, example.store)))
            except Unavailable:
                continue
    return found


def _movement_bars(example: Example, runs: Sequence[RunRecord], styles: Mapping[str, LineStyle], folder: Path) -> Plot:
    groups = layers(example.model)[:MOST_LAYERS]
    names = [name or "weights" for name, _ in groups]
    steps: dict[str, list[dict[str, float | None]]] = {}
    series: list[tuple[str, str, str]] = []
    for regime in (example.staged, example.other):
        for seed, results in _stages_by_seed(example, runs, regime):
            fresh = build_model(example.config.arch, example.stream.input_shape, example.stream.n_outputs, seed)
            before: Mapping[str, Tensor] = fresh.state_dict()
            for number, result in enumerate(results):
                step = f"{regime}, stage {number + 1}" if len(results) > 1 else regime
                if step not in steps:
                    series.append((step, styles[regime].ink, HATCHES[number % 4]))
                steps.setdefault(step, []).append(relative_movement(before, result.weights, groups))
                before = result.weights
    size = (max(PANEL[0], min(8.0, 1.5 + 0.36 * len(names) * len(steps))), PANEL[1])
    figure, ax = panel("movement of each layer in each stage", "layer, input to output", "|w₁ − w₀| / |w₀|", size=size)
    values = [[[v for one in steps[step] if (v := one[name]) is not None] for name, _ in groups] for step, *_ in series]
    means = bars(ax, series, values)
    ax.set_xticks(range(len(names)), names, fontsize=7)
    if sum(map(len, names)) > 44:
        ax.tick_params(axis="x", labelrotation=60)
    legend_below(figure, *ax.get_legend_handles_labels())
    tops = [(m, f"{names[k]} in {series[s][0]}") for s, of in enumerate(means) for k, m in enumerate(of) if m == m]
    largest, where = max(tops, default=(0.0, ""))
    n = max(map(len, steps.values()), default=0)
    alt = f"Bars of relative movement by layer and stage, mean of {n} seeds; largest {largest:.2f}, {where}."
    caption = (
        "How far each layer's weights move in a stage, relative to their norm at its start: compare the second stage "
        "(hatched) with the first, and the last layer with the earlier ones."
    )
    return save_plot(figure, folder, "drift-layers", alt, caption=caption)


def _restorations(example: Example, runs: Sequence[RunRecord], folder: Path) -> Plot:
    """Accuracy on Dataset 1 with parts of the last stage undone, and of a fresh linear readout of the features."""
    n = example.samples_within(MOST_FLOPS, 12 * MOST_SEEDS)
    scores: dict[str, list[float]] = {}
    for seed, results in _stages_by_seed(example, runs, example.staged):
        earlier, later = (result.weights for result in results[-2:])
        stream = example.stream if seed == example.seed else example.factory.build(seed)
        held_out = evaluation_set(stream.val, "d1", dtype_of(example), n)
        train = training_set(stream.train[0], dtype_of(example), n)
        own = restoration(example.model, earlier, later, held_out.x, held_out.accuracy)
        own |= {f"{k} probe": _probe(example, w, train, held_out) for k, w in (("earlier", earlier), ("later", later))}
        for key, value in own.items():
            scores.setdefault(key, []).append(100 * value)
    if not scores:
        raise Unavailable("no weights are left to restore")
    keys = [key for key in PARTS if key in scores]
    title, size = f"{example.staged}: what recovers Dataset 1", (PANEL[0] + 0.7, PANEL[1])
    figure, ax = panel(title, "accuracy on Dataset 1 (held out), %", "", size=size)
    inks = {"earlier": INKS[5], "later": INKS[0], "earlier probe": INKS[5], "later probe": INKS[0]}
    for row, key in enumerate(reversed(keys)):
        values = np.array(scores[key])
        hatch = "////" if "probe" in key else ""
        ax.barh(row, values.mean(), 0.66, color=inks.get(key, INKS[3]), hatch=hatch, edgecolor="white", linewidth=0.5)
        error = values.std(ddof=1) if len(values) > 1 else 0.0
        ax.errorbar(values.mean(), row, xerr=error, fmt="none", ecolor="#222222", elinewidth=0.8, capsize=1.8)
        ax.text(values.mean() + error + 1.5, row, f"{values.mean():.0f}", va="center", fontsize=7.5)
    ax.set_yticks(range(len(keys)), [PARTS[key] for key in reversed(keys)], fontsize=8)
    ax.set_xlim(0, 111)
    ax.set_xticks(range(0, 101, 20))
    ax.grid(axis="x", color="#e4e4e4", linewidth=0.7)
    ax.grid(axis="y", visible=False)
    means = ", ".join(f"{PARTS[key]} {np.mean(scores[key]):.0f}" for key in keys)
    alt = f"Bars of accuracy on Dataset 1 in percent, mean of {len(scores[keys[0]])} seeds: {means}."
    caption = (
        "If restoring the head (or the mean outputs) recovers Dataset 1, the loss is in the last layer; if the linear probe "
        "has not fallen, the features still separate what the head forgot."
    )
    return save_plot(figure, folder, "drift-restoration", alt, caption=caption)


def _probe(example: Example, weights: Mapping[str, Tensor], train: Labelled, held_out: Labelled) -> float:
    """Accuracy of a linear probe, each held-out sample weighted as in its set."""
    example.model.load_state_dict(dict(weights))
    features, _ = features_and_logits(example.model, train.x)
    test_features, _ = features_and_logits(example.model, held_out.x)
    n = example.stream.n_outputs
    return probe_accuracy(features, train.y, test_features, held_out.y, n, test_weights=held_out.weights)
