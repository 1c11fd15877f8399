"""The pictures of drift: what moved at the boundary between the stages, how fast, and what putting it back gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from src.comparison.pairing import RunRecord
from src.evaluation.drift import features_and_logits, probe_accuracy, relative_movement, restoration
from src.evaluation.labelled import Labelled, evaluation_set, training_set
from src.models.build import build_model
from src.models.structure import layers
from src.report.example import Example, Unavailable, WeightPath, stages_of
from src.report.on_the_way import dtype_of, movement, probabilities, stability_gap
from src.report.style import INKS, PANEL, Look, Picture, label, legend_below, looks, panel, picture

MOST_SEEDS = 12
MOST_LAYERS = 24
MOST_FLOPS = 1e11


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftPictures:
    """The pictures, and what could not be drawn and why."""

    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]
    layer_looks: Mapping[str, Look]


def drift_pictures(
    example: Example, runs: Sequence[RunRecord], path: WeightPath, styles: Mapping[str, Look], folder: Path
) -> DriftPictures:
    """Everything about one example; `runs`: all runs of its cell, whose seeds the bars average over."""
    pictures = [_movement_bars(example, runs, styles, folder)]
    notes: list[str] = []
    groups = layers(example.model)[:MOST_LAYERS]
    layer_looks = looks([name or "weights" for name, _ in groups], first=2)
    if path.watched:
        pictures.append(movement(example, path, [(n or "weights", p) for n, p in groups], layer_looks, folder))
    else:
        notes.append(f"Movement per update is not shown: {path.not_watched}.")
    set_looks = looks(list(example.stream.val.sets), first=2)
    is_classes = not example.stream.train[0].y.is_floating_point()
    if is_classes:
        draws: tuple[Callable[[], Picture], ...] = (
            lambda: probabilities(example, path, folder),
            *((lambda: stability_gap(example, path, set_looks, folder),) if path.watched and path.boundaries else ()),
            lambda: _restorations(example, runs, folder),
        )
        for draw in draws:
            try:
                pictures.append(draw())
            except (Unavailable, ValueError) as why:
                notes.append(f"A picture is missing: {why}.")
    return DriftPictures(pictures=tuple(pictures), notes=tuple(notes), layer_looks=layer_looks if path.watched else {})


# ------------------------------------------------------------------------------------------------ movement


def _steps(example: Example, runs: Sequence[RunRecord]) -> dict[str, list[dict[str, float | None]]]:
    """Relative movement of every layer in every stage, one mapping a seed whose weights are there."""
    groups = layers(example.model)[:MOST_LAYERS]
    found: dict[str, list[dict[str, float | None]]] = {}
    for seed in sorted({run.seed for run in runs})[:MOST_SEEDS]:
        fresh = build_model(example.config.arch, example.stream.input_shape, example.stream.n_outputs, seed)
        start: Mapping[str, Tensor] = fresh.state_dict()
        for name in (example.staged, example.other):
            run = next((r for r in runs if r.regime == name and r.seed == seed and not r.diverged), None)
            if run is None:
                continue
            try:
                results = stages_of(run, example.store)
            except Unavailable:
                continue
            before = start
            for number, result in enumerate(results):
                step = f"{name}, stage {number + 1}" if len(results) > 1 else name
                found.setdefault(step, []).append(relative_movement(before, result.weights, groups))
                before = result.weights
    return found


def _movement_bars(example: Example, runs: Sequence[RunRecord], styles: Mapping[str, Look], folder: Path) -> Picture:
    steps = _steps(example, runs)
    names = [name for name, _ in layers(example.model)[:MOST_LAYERS]]
    figure, ax = panel(size=(max(PANEL[0], min(8.0, 1.5 + 0.36 * len(names) * len(steps))), PANEL[1]))
    width = 0.84 / max(1, len(steps))
    hatches = ("", "////", "....", "xxxx")
    largest: tuple[float, str] = (0.0, "")
    seen: dict[str, int] = {}
    for number, (step, of_seeds) in enumerate(steps.items()):
        regime = example.staged if step.startswith(example.staged) else example.other
        values = [[v for one in of_seeds if (v := one[name]) is not None] for name in names]
        mean = np.array([np.mean(v) if v else np.nan for v in values])
        error = np.array([np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values])
        x = np.arange(len(names)) + (number - (len(steps) - 1) / 2) * width
        ink, hatch = styles[regime].ink, hatches[seen.get(regime, 0) % len(hatches)]
        seen[regime] = seen.get(regime, 0) + 1
        ax.bar(x, mean, width * 0.94, color=ink, edgecolor="white", linewidth=0.5, hatch=hatch, label=step)
        ax.errorbar(x, mean, error, fmt="none", ecolor="#222222", elinewidth=0.8, capsize=1.6)
        if np.isfinite(mean).any():
            top = int(np.nanargmax(mean))
            largest = max(largest, (float(mean[top]), f"{names[top] or 'weights'} in {step}"))
    ax.set_xticks(range(len(names)), [name or "weights" for name in names], fontsize=7)
    if sum(map(len, names)) > 44:
        ax.tick_params(axis="x", labelrotation=60)
    legend_below(figure, *ax.get_legend_handles_labels())
    n = max((len(of_seeds) for of_seeds in steps.values()), default=0)
    label(ax, "movement of each layer in each stage", "layer, input to output", "|w₁ − w₀| / |w₀|")
    return picture(
        figure,
        folder,
        "drift-layers",
        f"Bars of relative movement by layer and stage, mean of {n} seeds; largest {largest[0]:.2f}, {largest[1]}.",
        caption="How far each layer's weights travel in a stage, as a share of their length when it began: compare the "
        "second stage (hatched) with the first, and the last layer with those before it.",
    )


# ------------------------------------------------------------------------------------------------ restoration


def _restorations(example: Example, runs: Sequence[RunRecord], folder: Path) -> Picture:
    """Accuracy on Dataset 1 with parts of the last stage undone, and what a fresh linear readout of the features gives."""
    n = example.samples_within(MOST_FLOPS, 12 * MOST_SEEDS)
    found: dict[str, list[float]] = {}
    for seed in sorted({run.seed for run in runs})[:MOST_SEEDS]:
        run = next((r for r in runs if r.regime == example.staged and r.seed == seed and not r.diverged), None)
        if run is None:
            continue
        try:
            earlier, later = (r.weights for r in stages_of(run, example.store)[-2:])
        except Unavailable:
            continue
        stream = example.stream if seed == example.seed else example.factory.build(seed)
        held_out = evaluation_set(stream.val, "d1", dtype_of(example), n)
        scores = restoration(example.model, earlier, later, held_out.x, held_out.accuracy)
        train = training_set(stream.train[0], dtype_of(example), n)
        for name, weights in (("earlier", earlier), ("later", later)):
            scores[f"{name} probe"] = _probe(example, weights, train, held_out)
        for key, value in scores.items():
            found.setdefault(key, []).append(100 * value)
    if not found:
        raise Unavailable("no weights are left to restore")
    words = {
        "earlier": "before the last stage",
        "later": "after it",
        "bias": "its bias put back",
        "effective bias": "its mean outputs put back",
        "head": "its head put back",
        "features": "its features put back",
        "earlier probe": "linear probe before",
        "later probe": "linear probe after",
    }
    keys = [key for key in words if key in found]
    figure, ax = panel(size=(PANEL[0] + 0.7, PANEL[1]))
    inks = {"earlier": INKS[5], "later": INKS[0], "earlier probe": INKS[5], "later probe": INKS[0]}
    for row, key in enumerate(reversed(keys)):
        values = np.array(found[key])
        hatch = "////" if "probe" in key else ""
        ax.barh(row, values.mean(), 0.66, color=inks.get(key, INKS[3]), hatch=hatch, edgecolor="white", linewidth=0.5)
        error = values.std(ddof=1) if len(values) > 1 else 0.0
        ax.errorbar(values.mean(), row, xerr=error, fmt="none", ecolor="#222222", elinewidth=0.8, capsize=1.8)
        ax.text(values.mean() + error + 1.5, row, f"{values.mean():.0f}", va="center", fontsize=7.5)
    ax.set_yticks(range(len(keys)), [words[key] for key in reversed(keys)], fontsize=8)
    ax.set_xlim(0, 111)
    ax.set_xticks(range(0, 101, 20))
    ax.grid(axis="x", color="#e4e4e4", linewidth=0.7)
    ax.grid(axis="y", visible=False)
    label(ax, f"{example.staged}: what brings Dataset 1 back", "accuracy on Dataset 1 (held out), %", "")
    means = ", ".join(f"{words[key]} {np.mean(found[key]):.0f}" for key in keys)
    n_seeds = len(next(iter(found.values())))
    return picture(
        figure,
        folder,
        "drift-restoration",
        f"Bars of accuracy on Dataset 1 in percent, mean of {n_seeds} seeds: {means}.",
        caption="If putting the head (or the mean outputs) back restores Dataset 1, the loss sat in the last layer; if the "
        "linear probe has not fallen, the features still know what the head forgot.",
    )


def _probe(example: Example, weights: Mapping[str, Tensor], train: Labelled, held_out: Labelled) -> float:
    """The probe's accuracy, every held-out sample weighed as in its set."""
    example.model.load_state_dict(dict(weights))
    features, _ = features_and_logits(example.model, train.x)
    test_features, _ = features_and_logits(example.model, held_out.x)
    return probe_accuracy(
        features, train.y, test_features, held_out.y, example.stream.n_outputs, test_weights=held_out.weights
    )
