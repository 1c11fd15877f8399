"""The probe that watches what moves first in stage 2, and puts parts of stage 1 back."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from src.claims.evidence import CellEvidence
from src.claims.probes.results import Readings, dtype_of, finished, model_of
from src.claims.probes.trajectories import watched
from src.data.stream import Stream
from src.evaluation.drift import (
    Weights,
    features_and_logits,
    head_of,
    mean_probabilities,
    probe_accuracy,
    relative_movement,
    restoration,
)
from src.evaluation.labelled import Labelled, evaluation_set, training_set
from src.models.structure import layers
from src.training.trajectory import Trajectory

EARLY = 0.1
"""The share of a stage's updates after which `prior` asks what has moved."""
SHOWN = (0, 1, 2, 5, 10, 20)
"""Updates after which the note on the absent classes says their probability."""


def prior(evidence: CellEvidence) -> Readings:
    """What moves first in stage 2 of `sequential`, and what putting parts of stage 1 back gives; on Dataset 1's test set.

    After a tenth of the updates: ``prior_done``: total variation of the mean predicted class probabilities from those at
    the start, as a share of that at the end; ``features_done``: the same of the mean square of the head's inputs' change;
    ``head_moved``, ``others_moved``: relative movement of the last layer, and the mean of the other layers';
    ``absent_done``: what the mean probability of the classes absent from Dataset 2 has lost, as a share of what it had.
    After stage 2: ``lost`` accuracy, and how much of it comes back with ``bias_back``, ``effective_bias_back``,
    ``head_back``, ``features_back``; ``probe_change``: accuracy of a linear probe of the features, less that before stage 2.
    """
    values, notes = {}, []
    curves = []
    seeds = finished(evidence, "sequential")
    ways = watched(evidence, "sequential", seeds, lambda n: [*SHOWN, _early(n), n])
    for seed, (stream, on_the_way) in zip(seeds, ways, strict=True):
        before, after = on_the_way.weights[0], on_the_way.weights[-1]
        early = on_the_way.weights[on_the_way.updates.index(_early(on_the_way.updates[-1]))]
        model = model_of(evidence, stream, before)
        held_out = evaluation_set(stream.test, "d1", dtype_of(before), None)
        train = training_set(stream.train[0], dtype_of(before), None)
        moved = _moved(model, before, early, after, stream, held_out)
        scores = restoration(model, before, after, held_out.x, held_out.accuracy)
        back = {f"{name.replace(' ', '_')}_back": scores[name] - scores["later"] for name in scores}
        probes = [_probe(model, weights, train, held_out, stream.n_outputs) for weights in (before, after)]
        values["sequential", seed] = {
            **moved,
            **{name: back[name] for name in back if name not in ("earlier_back", "later_back")},
            "lost": scores["earlier"] - scores["later"],
            "probe_change": probes[1] - probes[0],
        }
        curves.append(_absent_curve(model, on_the_way, held_out, stream))
    known = [curve for curve in curves if curve is not None]
    if known:
        shown = ", ".join(f"{100 * value:.1f}" for value in np.mean(known, axis=0))
        notes.append(
            f"mean probability of the absent classes after 0, 1, 2, 5, 10, 20 updates and at the end, %: {shown}"
        )
    return Readings(values, tuple(notes))


def _early(n_updates: int) -> int:
    return max(1, round(EARLY * n_updates))


def _moved(
    model: nn.Module, before: Weights, early: Weights, after: Weights, stream: Stream, held_out: Labelled
) -> dict[str, float]:
    features, probabilities = [], []
    for weights in (before, early, after):
        model.load_state_dict(dict(weights))
        inner, logits = features_and_logits(model, held_out.x)
        features.append(inner.double())
        probabilities.append(mean_probabilities(logits, held_out.weights))
    head, _ = head_of(model)
    relative = relative_movement(before, early, layers(model))
    others = [value for name, value in relative.items() if name != head and value is not None]
    moved = {
        "prior_done": _share(
            (probabilities[1] - probabilities[0]).abs().sum(), (probabilities[2] - probabilities[0]).abs().sum()
        ),
        "features_done": _share((features[1] - features[0]).norm(), (features[2] - features[0]).norm()),
        "head_moved": relative[head] or 0.0,
        "others_moved": float(np.mean(others)) if others else 0.0,
    }
    absent = _absent(stream)
    if absent:
        had, has = (float(p[absent].sum()) for p in probabilities[:2])
        moved["absent_done"] = (had - has) / had
    return moved


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part / whole)


def _absent(stream: Stream) -> list[int]:
    """Classes of Dataset 1 that Dataset 2 lacks."""
    first, second = stream.class_counts[0], stream.class_counts[1]
    return [k for k in range(len(first)) if first[k] and not second[k]]


def _absent_curve(model: nn.Module, way: Trajectory, held_out: Labelled, stream: Stream) -> list[float] | None:
    """The absent classes' mean probability after 0, 1, 2, 5, 10 and 20 updates, and at the end."""
    absent = _absent(stream)
    wanted = [*SHOWN, way.updates[-1]]
    if not absent or wanted[-1] < wanted[-2]:
        return None
    curve = []
    for update in wanted:
        model.load_state_dict(dict(way.weights[way.updates.index(update)]))
        _, logits = features_and_logits(model, held_out.x)
        curve.append(float(mean_probabilities(logits, held_out.weights)[absent].sum()))
    return curve


def _probe(model: nn.Module, weights: Weights, train: Labelled, held_out: Labelled, n_classes: int) -> float:
    model.load_state_dict(dict(weights))
    features, _ = features_and_logits(model, train.x)
    test_features, _ = features_and_logits(model, held_out.x)
    return probe_accuracy(features, train.y, test_features, held_out.y, n_classes, test_weights=held_out.weights)
