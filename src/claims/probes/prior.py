"""Probe `prior`: what changes first in stage 2, and what restoring parts of stage 1 recovers."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from src.claims.cell import CellRuns, ProbeResult, dtype_of
from src.claims.probes.retraining import last_stage_trajectories
from src.data.stream import Stream
from src.evaluation.drift import (
    Weights,
    feature_probe,
    features_and_logits,
    head_of,
    mean_probabilities,
    relative_movement,
    restoration,
)
from src.evaluation.labelled import Labelled, evaluation_set, training_set
from src.models.build import build_model
from src.models.structure import layers
from src.training.trajectory import Trajectory

EARLY = 0.1
"""The share of a stage's updates after which `prior` compares the changes."""
NOTED_UPDATES = (0, 1, 2, 5, 10, 20)
"""Updates for which the note lists the probability of the absent classes."""


def prior(cell: CellRuns) -> ProbeResult:
    """What changes first in stage 2 of `sequential`, and what restoring parts of stage 1 recovers, on Dataset 1's test
    set.

    After a tenth of the updates: ``prior_done``, total variation of the mean predicted class probabilities from those
    at the start, as a share of that at the end; ``features_done``, the same for the root mean square change of the
    head's inputs; ``head_moved``, ``others_moved``, relative movement of the last layer and the mean of the other
    layers'; ``absent_done``, share of the initial mean probability that the classes absent from Dataset 2 have lost.

    After stage 2: ``lost``, accuracy lost, and the part of it that ``bias_back``, ``effective_bias_back``,
    ``head_back`` and ``features_back`` recover; ``probe_change``, accuracy of a linear probe of the features minus that
    before stage 2; ``probe_gain``, the latter minus that of the untrained features: what training has added to them.
    """
    values, curves = {}, []
    seeds = cell.common_seeds("sequential")
    recorded = last_stage_trajectories(cell, "sequential", seeds, lambda n: [*NOTED_UPDATES, _early(n), n])
    for seed, (stream, trajectory) in zip(seeds, recorded, strict=True):
        before, after = trajectory.weights[0], trajectory.weights[-1]
        early = _weights_at(trajectory, _early(trajectory.updates[-1]))
        model = cell.model(stream, before)
        held_out = evaluation_set(stream.test, "d1", dtype_of(before), None)
        train = training_set(stream.train[0], dtype_of(before), None)
        scores = restoration(model, before, after, held_out.x, held_out.accuracy)
        restored = {name: score - scores["later"] for name, score in scores.items() if name not in ("earlier", "later")}
        untrained = build_model(cell.config.arch, stream.input_shape, stream.n_outputs, seed, dtype_of(before))
        states = (untrained.state_dict(), before, after)
        probes = [feature_probe(model, weights, train, held_out, stream.n_outputs) for weights in states]
        values["sequential", seed] = {
            **_early_changes(model, before, early, after, stream, held_out),
            **{f"{name.replace(' ', '_')}_back": recovered for name, recovered in restored.items()},
            "lost": scores["earlier"] - scores["later"],
            "probe_change": probes[2] - probes[1],
            "probe_gain": probes[1] - probes[0],
        }
        absent = _absent_classes(stream)
        if absent and trajectory.updates[-1] >= NOTED_UPDATES[-1]:
            noted = [_weights_at(trajectory, update) for update in (*NOTED_UPDATES, trajectory.updates[-1])]
            probabilities = [_probabilities(model, weights, held_out)[1] for weights in noted]
            curves.append([float(p[absent].sum()) for p in probabilities])
    if not curves:
        return ProbeResult(values)
    means = ", ".join(f"{100 * value:.1f}" for value in np.mean(curves, axis=0))
    updates = ", ".join(map(str, NOTED_UPDATES))
    note = f"mean probability of the absent classes after {updates} updates and at the end, %: {means}"
    return ProbeResult(values, (note,))


def _early(n_updates: int) -> int:
    return max(1, round(EARLY * n_updates))


def _weights_at(trajectory: Trajectory, update: int) -> Weights:
    return trajectory.weights[trajectory.updates.index(update)]


def _absent_classes(stream: Stream) -> list[int]:
    """Classes of Dataset 1 that Dataset 2 lacks."""
    first, second = stream.class_counts[0], stream.class_counts[1]
    return [k for k in range(len(first)) if first[k] and not second[k]]


def _probabilities(model: nn.Module, weights: Weights, held_out: Labelled) -> tuple[Tensor, Tensor]:
    """Inputs of the head [samples, features] and mean predicted class probabilities [classes]."""
    model.load_state_dict(dict(weights))
    features, logits = features_and_logits(model, held_out.x)
    return features.double(), mean_probabilities(logits, held_out.weights)


def _early_changes(
    model: nn.Module, before: Weights, early: Weights, after: Weights, stream: Stream, held_out: Labelled
) -> dict[str, float]:
    features, probabilities = zip(
        *(_probabilities(model, weights, held_out) for weights in (before, early, after)), strict=True
    )
    prior_change, final_prior_change = ((p - probabilities[0]).abs().sum() for p in probabilities[1:])
    feature_change, final_feature_change = ((f - features[0]).norm() for f in features[1:])
    head, _ = head_of(model)
    movement = relative_movement(before, early, layers(model))
    others = [value for name, value in movement.items() if name != head and value is not None]
    changes = {
        "prior_done": float(prior_change / final_prior_change),
        "features_done": float(feature_change / final_feature_change),
        "head_moved": movement[head] or 0.0,
        "others_moved": float(np.mean(others)) if others else 0.0,
    }
    if absent := _absent_classes(stream):
        initial, current = (float(p[absent].sum()) for p in probabilities[:2])
        changes["absent_done"] = (initial - current) / initial
    return changes
