"""Probes that train: stages once more to watch their weights on the way, or runs whose sources of chance are crossed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from src.analysis.evidence import CellEvidence, Missing
from src.analysis.readings import Readings, ends_of, model_of, stages_of
from src.config import RegimeConfig
from src.data.stream import EvaluationSet, Samples, Stream
from src.evaluation.drift import (
    Weights,
    features_and_logits,
    head_of,
    mean_probabilities,
    probe_accuracy,
    relative_movement,
    restoration,
)
from src.evaluation.landscape import Surface, along, distance_to_path, interpolate
from src.models.build import build_model
from src.models.structure import layers
from src.training.devices import place_of
from src.training.plan import Node, make_plan
from src.training.trajectory import Trajectory, points, trajectory

PATH_POINTS = 60
SEGMENT_POINTS = 5
EARLY = 0.1
"""The share of a stage's updates after which `prior` asks what has moved."""
SHOWN = (0, 1, 2, 5, 10, 20)
"""Updates after which the note on the absent classes says their probability."""
N_INITS = N_ORDERS = 4


def watched(
    evidence: CellEvidence, regime: str, seed: int, at: Callable[[int], Sequence[int]]
) -> tuple[Stream, Trajectory]:
    """The weights on the way through the last stage of a run of two stages, trained again, and the run's stream.

    `at`: from the number of the stage's updates to those after which its weights are kept.
    """
    config = evidence.config
    stream = evidence.factory.build(seed)
    plan = make_plan(config, {seed: stream}, [(_named(evidence, regime), seed)])
    keys = plan.runs[0].stages
    first, second = stages_of(evidence, regime, seed)
    if list(keys) != list(evidence.runs[regime, seed].provenance["stage_keys"]):
        raise Missing(f"the recipe of {regime} in cell {evidence.cell} is no longer the one it was trained by")
    kept = at(second.ledger.updates)
    return stream, trajectory(config, plan.nodes[keys[1]], second, first, place_of(config.trainer), at=kept)


def _named(evidence: CellEvidence, label: str) -> RegimeConfig:
    return next(regime for regime in evidence.config.regimes if regime.label == label)


def _seeds(evidence: CellEvidence, *labels: str) -> list[int]:
    """Seeds at which all these regimes finished. Raises Missing if there is none."""
    runs = evidence.runs
    done = [s for s in evidence.config.seeds if all((la, s) in runs and not runs[la, s].diverged for la in labels)]
    if not done:
        raise Missing(f"no seed finished in {' and '.join(labels)}")
    return done


# ------------------------------------------------------------------------------------------------ the path of stage 2


def path(evidence: CellEvidence) -> Readings:
    """How near the way of stage 2 comes to the combined optimum of the same seed; under the regime `sequential`.

    ``distance``: least distance of the combined weights from the polygon through up to 60 points of stage 2, over the
    distance between its two ends. ``excess_loss``: lowest training loss of the union on that way, at five points of each of
    its segments, less that of combined.
    """
    values = {}
    for seed in _seeds(evidence, "sequential", "combined"):
        stream, on_the_way = watched(evidence, "sequential", seed, lambda n: points(n, PATH_POINTS))
        combined = ends_of(evidence, "combined", seed)[-1]
        dtype = next(iter(combined.values())).dtype
        x = torch.cat([part.inputs(dtype) for part in stream.train])
        y = torch.cat([part.y for part in stream.train])
        surface = Surface(
            model_of(evidence, stream, combined),
            {"union": (x, y.to(dtype) if y.is_floating_point() else y)},
            evidence.config.loss,
        )
        way = [surface.vector(weights) for weights in on_the_way.weights]
        best = surface.vector(combined)
        between = [interpolate(a, b, t) for a, b in itertools.pairwise(way) for t in along(SEGMENT_POINTS)]
        losses = surface.losses([*between, best])["union"]
        values["sequential", seed] = {
            "distance": distance_to_path(way, best) / float((way[-1] - way[0]).norm()),
            "excess_loss": min(losses[:-1]) - losses[-1],
        }
    return Readings(values)


# ------------------------------------------------------------------------------------------------ priors


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
    for seed in _seeds(evidence, "sequential"):
        stream, on_the_way = watched(evidence, "sequential", seed, lambda n: [*SHOWN, _early(n), n])
        before, after = on_the_way.weights[0], on_the_way.weights[-1]
        early = on_the_way.weights[on_the_way.updates.index(_early(on_the_way.updates[-1]))]
        model = model_of(evidence, stream, before)
        held_out = _Labelled.of(stream.test.pools[0], stream.test.sets["d1"], _dtype(before))
        train = _Labelled.of(stream.train[0], None, _dtype(before))
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Labelled:
    """Inputs, labels and the weight of each in the set it stands for."""

    x: Tensor
    y: Tensor
    weights: Tensor

    @classmethod
    def of(cls, samples: Samples, chosen: EvaluationSet | None, dtype: torch.dtype) -> _Labelled:
        """The samples of a pool that have weight in Dataset 1's set; of a training set all alike."""
        weights = torch.ones(len(samples), dtype=torch.float64) if chosen is None else chosen.weights[0]
        kept = weights > 0
        x = samples.bank.scale(samples.bank.x[samples.rows[kept]], dtype)
        return cls(x, samples.y[kept], weights[kept] / weights[kept].sum())

    def accuracy(self, model: nn.Module) -> float:
        with torch.no_grad():
            right = model.eval()(self.x).argmax(dim=-1) == self.y
        return float(self.weights @ right.double())


def _early(n_updates: int) -> int:
    return max(1, round(EARLY * n_updates))


def _moved(
    model: nn.Module, before: Weights, early: Weights, after: Weights, stream: Stream, held_out: _Labelled
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


def _absent_curve(model: nn.Module, way: Trajectory, held_out: _Labelled, stream: Stream) -> list[float] | None:
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


def _probe(model: nn.Module, weights: Weights, train: _Labelled, held_out: _Labelled, n_classes: int) -> float:
    model.load_state_dict(dict(weights))
    features, _ = features_and_logits(model, train.x)
    test_features, _ = features_and_logits(model, held_out.x)
    return probe_accuracy(features, train.y, test_features, held_out.y, n_classes, test_weights=held_out.weights)


def _dtype(weights: Mapping[str, Tensor]) -> torch.dtype:
    return next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())


# ------------------------------------------------------------------------------------------------ sources of chance


def variation(evidence: CellEvidence) -> Readings:
    """Sequential less combined, accuracy on union, of every data draw under 4 initial weights x 4 batch orders; under the
    regime `sequential`.

    ``wrong_sign``: share of a draw's 16 comparisons whose sign is opposite to the mean of all the other draws';
    ``mean``: of its 16. The note splits the variance of one comparison into data draw, initialisation, order and the rest
    (nested random effects: inits and orders are new for every draw; moments, Searle et al. 1992, negative ones as they are).
    """
    seeds = _seeds(evidence, "sequential", "combined")
    table = np.stack([_crossed(evidence, seed) for seed in seeds])
    values = {}
    for k, seed in enumerate(seeds):
        direction = np.sign(np.delete(table, k, axis=0).mean())
        wrong = float((np.sign(table[k]) == -direction).mean()) if direction else 0.0
        values["sequential", seed] = {"wrong_sign": wrong, "mean": float(table[k].mean())}
    parts = variance_parts(table)
    shown = ", ".join(f"{name} {100 * part / sum(parts.values()):.0f} %" for name, part in parts.items())
    deviation = 100 * float(np.sqrt(sum(parts.values())))
    return Readings(
        values, (f"one comparison has a standard deviation of {deviation:.2f} points: {shown} of its variance",)
    )


def variance_parts(table: NDArray[np.float64]) -> dict[str, float]:
    """Variance components of `table` [draws, inits, orders], inits and orders crossed within each draw."""
    _, n_inits, n_orders = table.shape
    by_draw = table.mean(axis=(1, 2))
    by_init, by_order = table.mean(axis=2), table.mean(axis=1)
    left = table - by_init[:, :, None] - by_order[:, None, :] + by_draw[:, None, None]
    rest = float(np.mean(np.sum(left**2, axis=(1, 2)) / ((n_inits - 1) * (n_orders - 1))))
    init = float(np.mean(by_init.var(axis=1, ddof=1))) - rest / n_orders
    order = float(np.mean(by_order.var(axis=1, ddof=1))) - rest / n_inits
    within = init / n_inits + order / n_orders + rest / (n_inits * n_orders)
    return {"data": float(by_draw.var(ddof=1)) - within, "init": init, "order": order, "the rest": rest}


def _crossed(evidence: CellEvidence, seed: int) -> NDArray[np.float64]:
    """Sequential less combined of one data draw, [inits, orders]."""
    ends = {label: _trained(evidence, label, seed) for label in ("sequential", "combined")}
    from src.training.evaluate import score_stages

    place = place_of(evidence.config.trainer)
    stream = evidence.factory.build(seed)
    scores = {
        label: [
            s["union/accuracy"] for s in score_stages(evidence.config, [(stream, w) for w in weights], "test", place)
        ]
        for label, weights in ends.items()
    }
    differences = np.array(scores["sequential"], np.float64) - np.array(scores["combined"], np.float64)
    return differences.reshape(N_INITS, N_ORDERS)


def _trained(evidence: CellEvidence, label: str, seed: int) -> Sequence[Weights]:
    """Weights of a regime on the data of one seed, for every initialisation and order."""
    from src.training.fit import fit

    config, place = evidence.config, place_of(evidence.config.trainer)
    stream = evidence.factory.build(seed)
    plan = make_plan(config, {seed: stream}, [(_named(evidence, label), seed)])
    chance = [(1000 * (seed + 1) + i, 1000 * (seed + 1) + o) for i in range(N_INITS) for o in range(N_ORDERS)]
    weights: list[Weights] = []
    for key in plan.runs[0].stages:
        node = plan.nodes[key]
        nodes: list[Node] = []
        models: list[nn.Module] = []
        for k, (init, order) in enumerate(chance):
            nodes.append(dataclasses.replace(node, seed=init, data=dataclasses.replace(node.data, seed=order)))
            model = build_model(config.arch, stream.input_shape, stream.n_outputs, init, place.dtype)
            if weights:
                model.load_state_dict(dict(weights[k]))
            models.append(model)
        weights = [result.weights for result in fit(config, nodes, models, place)]
    return weights
