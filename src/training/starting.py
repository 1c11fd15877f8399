"""The starting point of a stage: initial weights, its parents' weights, or a resume point."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from src.config import Config
from src.models.build import build_model
from src.models.structure import head_names
from src.regimes.checkpoint import read
from src.training.devices import Device
from src.training.feed import make_feed
from src.training.losses import losses_of
from src.training.plan import Node
from src.training.replicas import ModelState
from src.training.result import ResumePoint, StageResult
from src.training.store.store import Store


def latest_resume_point(node: Node, store: Store, curve_points: int) -> ResumePoint | None:
    """The most advanced resume point: the stage's own or that of a shorter stage with the same prefix key.

    A longer stage may have wider spaced curve points, all of which must be among the shorter stage's.
    """
    own = store.resume_point(node.key)
    if node.prefix_key is None:
        return own
    for updates in store.prefix_lengths(node.prefix_key):
        is_ahead = (0 if own is None else own.updates) < updates < node.length.updates
        if is_ahead and (point := store.prefix(node.prefix_key, updates)) is not None:
            needed = node.length.regular_points(curve_points, updates)
            if set(needed) <= set(point.curves.steps.tolist()):
                reused = updates // node.length.updates_per_epoch * node.length.n_draws
                return dataclasses.replace(point, reused=reused)
    return own


def group_by_resume_point(
    nodes: Sequence[Node], starts: Mapping[str, ResumePoint], results: Mapping[str, StageResult]
) -> list[list[Node]]:
    """Groups the nodes by updates made and by the step counts of their optimizer states: a stack of models has one."""
    groups: dict[tuple[int, tuple[tuple[str, float], ...]], list[Node]] = {}
    for node in nodes:
        start = starts.get(node.key)
        state = start.optimizer if start is not None else inherited_optimizer(node, results) or {}
        names = tuple((name, float(t) if name.startswith("step/") else 0.0) for name, t in sorted(state.items()))
        groups.setdefault((0 if start is None else start.updates, names), []).append(node)
    return list(groups.values())


def inherited_optimizer(node: Node, results: Mapping[str, StageResult]) -> Mapping[str, Tensor] | None:
    """The optimizer state that the stage inherits from its parent; None if it starts with a fresh one."""
    if not node.parents or node.stage.reset_optimizer:
        return None
    state = results[node.parents[0]].optimizer
    assert state is not None, node.key
    return state


def initial_model(config: Config, node: Node, dtype: torch.dtype, address: Sequence[object] = ()) -> nn.Module:
    """The stage's network at the initial weights of its seed."""
    stream = node.stream
    return build_model(config.arch, stream.input_shape, stream.n_outputs, node.seed, dtype, address=address)


def loaded_model(config: Config, node: Node, weights: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """The stage's network with the given weights."""
    model = initial_model(config, node, dtype)
    model.load_state_dict(dict(weights))
    return model


def starting_model(config: Config, node: Node, results: Mapping[str, StageResult], device: Device) -> nn.Module:
    """The stage's network at its starting weights."""
    start, model = node.stage.start, initial_model(config, node, device.dtype)
    drawn = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    head = head_names(model, node.stream.n_outputs)
    parents = [with_rows(results[key].weights, drawn, head, node.new_outputs) for key in node.parents]
    if start.kind == "previous":
        model.load_state_dict(dict(parents[0]))
    elif start.kind == "shrink_perturb":
        noise = initial_model(config, node, device.dtype, address=("perturb", node.level))
        model.load_state_dict(shrink_perturb(parents[0], noise, start.shrink, start.perturb))
    elif start.kind == "dash":
        model.load_state_dict(dict(parents[0]))
        model.load_state_dict(dict(dash(config, node, model, device)))
    elif start.kind == "average":
        weights = average(parents, start.weights)
        for c in node.outputs:  # a row is the mean of those of the models that have it
            have = [k for k, outputs in enumerate(node.parent_outputs) if c in outputs]
            if len(have) < len(parents):
                total = sum(start.weights[k] for k in have)
                shares = [start.weights[k] / total for k in have] if total else [1 / len(have)] * len(have)
                weights = with_rows(weights, average([parents[k] for k in have], shares), head, [c])
        model.load_state_dict(weights)
    elif start.kind == "file":
        assert start.path is not None
        model.load_state_dict(read(start.path, model.state_dict(), class_names=node.stream.class_names))
    else:
        assert start.kind == "fresh", start.kind
    if node.new_outputs:  # whatever the regime does to weights at a boundary, new rows are as drawn
        model.load_state_dict(with_rows(model.state_dict(), drawn, head, node.new_outputs))
    return model


def without_new_rows(node: Node, model: nn.Module, state: Mapping[str, Tensor]) -> ModelState:
    """An inherited optimizer state ``key/name``, with zeros for the rows that the stage has drawn."""
    head = head_names(model, node.stream.n_outputs)
    chosen = [key for key, tensor in state.items() if key.split("/", 1)[1] in head and tensor.ndim]
    return with_rows(state, {key: torch.zeros_like(state[key]) for key in chosen}, chosen, node.new_outputs)


def with_rows(
    weights: Mapping[str, Tensor], others: Mapping[str, Tensor], names: Sequence[str], rows: Sequence[int]
) -> ModelState:
    """The weights, with these rows of the tensors `names` from `others`."""
    if not rows:
        return dict(weights)
    changed = {name: weights[name].clone() for name in names}
    for name, tensor in changed.items():
        tensor[list(rows)] = others[name][list(rows)].to(tensor)
    return {**weights, **changed}


def shrink_perturb(weights: Mapping[str, Tensor], noise: nn.Module, shrink: float, perturb: float) -> ModelState:
    """shrink * weights + perturb * freshly drawn initial weights (Ash & Adams 2020); buffers and what
    the network freezes stay as they are."""
    drawn = {name: parameter for name, parameter in noise.named_parameters() if parameter.requires_grad}
    return {
        name: shrink * tensor + perturb * drawn[name].detach() if name in drawn else tensor
        for name, tensor in weights.items()
    }


def average(parents: Sequence[Mapping[str, Tensor]], mixing: Sequence[float]) -> ModelState:
    """The weighted mean of several models' weights; integer buffers are the first model's."""
    return {
        name: sum((w * parent[name] for w, parent in zip(mixing, parents, strict=True)), torch.zeros_like(tensor))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in parents[0].items()
    }


def dash(config: Config, node: Node, model: nn.Module, device: Device) -> Mapping[str, Tensor]:
    """The weights of `model` shrunk for the stage `node`: w <- max(floor, cos(w, -g)) w for each unit (Shin et al.).

    g: the gradients of the batches of the stage's first epoch, each new one with weight alpha in the moving average, in
    evaluation mode. A unit is a row of a linear layer, one kernel [h, w] of a convolution, or a layer's vector of
    biases; other parameters stay. As in the authors' code.
    """
    start, place = node.stage.start, device.torch_device
    model = model.to(place).eval()
    units = {
        f"{path}.{name}" if path else name: parameter
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
        for name, parameter in layer.named_parameters(recurse=False)
        if parameter.requires_grad
    }
    means = {name: torch.zeros_like(parameter) for name, parameter in units.items()}
    losses = losses_of(config, node)
    alone = dataclasses.replace(device, rank=0, world=1)
    for x, y, _ in make_feed([node.data], node.length, alone, config.trainer.resident_mib):
        loss = losses(model(x[0]), y[0]).mean()
        for name, gradient in zip(units, torch.autograd.grad(loss, list(units.values())), strict=True):
            means[name] = (1 - start.alpha) * means[name] - start.alpha * gradient
    with torch.no_grad():
        for name, parameter in units.items():
            rows = parameter.flatten(2) if parameter.ndim > 2 else parameter
            direction = means[name].flatten(2) if parameter.ndim > 2 else means[name]
            factor = cosine_similarity(direction, rows, dim=-1).clamp(min=start.shrink, max=1.0)
            parameter.copy_((rows * factor.unsqueeze(-1)).view_as(parameter))
    return model.cpu().train().state_dict()  # a group is of models in one mode
