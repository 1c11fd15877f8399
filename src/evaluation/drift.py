"""Drift between an earlier and a later state of one run: layers, predicted classes, features, and restored parts.

Weights are mappings from names to tensors, as from `nn.Module.state_dict()`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from src.evaluation.labelled import Labelled
from src.models.structure import layers

Weights = Mapping[str, Tensor]
PROBE_RIDGE = 1e-3
"""Ridge of the linear probe, as a share of the features' mean square: keeps it defined for dead or collinear units."""


def relative_movement(
    earlier: Weights, later: Weights, groups: Sequence[tuple[str, Sequence[str]]]
) -> dict[str, float | None]:
    """|w1 - w0| / |w0| of every group of parameters (see `src.models.structure.layers`), Euclidean norms.

    `groups`: (name, parameters' names). None if |w0| is 0.
    """
    movement: dict[str, float | None] = {}
    for name, parameters in groups:
        moved = _norm(later[p].double() - earlier[p].double() for p in parameters)
        size = _norm(earlier[p].double() for p in parameters)
        movement[name] = moved / size if size > 0 else None
    return movement


def _norm(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt())


def mean_probabilities(logits: Tensor, weights: Tensor) -> Tensor:
    """Mean predicted probability of every class: logits [n, K] -> float64 [K], summing to 1.

    `weights` [n], >= 0, with any sum: the set that the samples stand for.
    """
    return (weights.double() / weights.double().sum()) @ logits.double().softmax(dim=-1)


def head_of(model: nn.Module) -> tuple[str, nn.Linear]:
    """The last layer with parameters and its path: the map from features to outputs.

    Raises ValueError if it is not a Linear layer, since features are then undefined.
    """
    path, _ = layers(model)[-1]
    head = model.get_submodule(path)
    if not isinstance(head, nn.Linear):
        shown = path or type(head).__name__
        raise ValueError(f"the last layer, {shown}, is not a Linear layer, so features are undefined")
    return path, head


def features_and_logits(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs [n, d] and outputs [n, K] of the head, in evaluation mode."""
    _, head = head_of(model)
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach()))
    was_training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(x)
    finally:
        handle.remove()
        model.train(was_training)
    return seen[0].flatten(1), logits


def probe_accuracy(train: Labelled, test: Labelled, n_classes: int) -> float:
    """Weighted accuracy on the test samples of a linear classifier fitted to frozen features, each set's `x` [n, d].

    Ridge least squares to one-hot targets with an intercept that is not shrunk (Alain and Bengio 2017 use a linear
    classifier too; least squares has one solution and no training to tune). A class without training samples is never
    predicted.
    """
    features, test_features = train.x.double(), test.x.double()
    mean = features.mean(dim=0)
    centred = features - mean
    targets = torch.nn.functional.one_hot(train.y, n_classes).double()
    gram = centred.T @ centred
    ridge = PROBE_RIDGE * max(float(gram.diagonal().mean()), torch.finfo(torch.float64).tiny)
    shrunk = gram + ridge * torch.eye(len(gram), dtype=torch.float64)
    coefficients = torch.linalg.solve(shrunk, centred.T @ (targets - targets.mean(dim=0)))
    scores = (test_features - mean) @ coefficients + targets.mean(dim=0)
    scores[:, targets.sum(dim=0) == 0] = -torch.inf
    right = (scores.argmax(dim=1) == test.y).double()
    return float(right @ test.weights.double() / test.weights.sum())


def feature_probe(model: nn.Module, weights: Weights, train: Labelled, held_out: Labelled, n_classes: int) -> float:
    """`probe_accuracy` of the features that a network with these weights has of the samples."""
    model.load_state_dict(dict(weights))
    of_train, of_held_out = (replace(own, x=features_and_logits(model, own.x)[0]) for own in (train, held_out))
    return probe_accuracy(of_train, of_held_out, n_classes)


# ------------------------------------------------------------------------------------------------ restoring parts


def parts_of(model: nn.Module) -> dict[str, list[str]]:
    """The parts that can be restored: the head's bias, the head, and the features (all before it)."""
    path, head = head_of(model)
    prefix = f"{path}." if path else ""
    in_head = [f"{prefix}{name}" for name, _ in head.named_parameters()]
    rest = [name for name in model.state_dict() if name not in in_head]
    parts = {"bias": [f"{prefix}bias"]} if head.bias is not None else {}
    return {**parts, "head": in_head, **({"features": rest} if rest else {})}


def restored(later: Weights, earlier: Weights, names: Sequence[str]) -> dict[str, Tensor]:
    """The later weights with the named tensors from the earlier ones."""
    chosen = set(names)
    return {name: (earlier if name in chosen else later)[name] for name in later}


def restoration(
    model: nn.Module, earlier: Weights, later: Weights, x: Tensor, score: Callable[[nn.Module], float]
) -> dict[str, float]:
    """`score` of the earlier and the later model, and of the later one with restored parts.

    Keys: ``earlier``, ``later``, then those of ``bias``, ``effective bias``, ``head``, ``features`` that the model has.
    Restoring the effective bias shifts the head's bias so that the mean outputs on `x` [n, ...] are the earlier ones: a
    direction that all features share shifts the outputs as the bias does.
    `model` is scored as a copy, never changed.
    """
    model = copy.deepcopy(model)

    def scored(weights: Weights) -> float:
        model.load_state_dict(dict(weights))
        return score(model)

    def mean_outputs(weights: Weights) -> Tensor:
        model.load_state_dict(dict(weights))
        return features_and_logits(model, x)[1].double().mean(dim=0)

    parts = parts_of(model)
    scores = {"earlier": scored(earlier), "later": scored(later)}
    for name, names in parts.items():
        scores[name] = scored(restored(later, earlier, names))
        if name == "bias":
            bias = later[names[0]]
            shifted = bias.double() + mean_outputs(earlier) - mean_outputs(later)
            scores["effective bias"] = scored({**later, names[0]: shifted.to(bias.dtype)})
    return scores
