"""From where a stage starts: weights of its own or of its parents, or the middle of its way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from src.config import Config
from src.models.build import build_model
from src.regimes.checkpoint import read
from src.training.devices import Device
from src.training.plan import Node
from src.training.replicas import ModelState
from src.training.result import ResumePoint, StageResult
from src.training.store.store import Store


def latest_resume_point(node: Node, store: Store, curve_points: int) -> ResumePoint | None:
    """What a stage goes on from: where it was left, or the end of a shorter one of its line if that is further on; None:
    from its start. A longer stage may have its curve's points wider apart: they must all be among the shorter one's."""
    part = store.resume_point(node.key)
    n_part = 0 if part is None else part.updates
    if node.prefix_key is None:
        return part
    for updates in store.prefix_lengths(node.prefix_key):
        if n_part < updates < node.length.updates and (end := store.prefix(node.prefix_key, updates)) is not None:
            needed = node.length.regular_points(curve_points, updates)
            if set(needed) <= set(end.curves.steps.tolist()):
                return dataclasses.replace(end, reused=updates // node.length.updates_per_epoch * node.length.n_draws)
    return part


def group_by_resume_point(
    nodes: Sequence[Node], starts: Mapping[str, ResumePoint], results: Mapping[str, StageResult]
) -> list[list[Node]]:
    """The nodes by how far they have come, and by the optimizer state they go on with: a stack of models has one step
    count, which all must share."""
    groups: dict[tuple[int, tuple[tuple[str, float], ...]], list[Node]] = {}
    for node in nodes:
        start = starts.get(node.key)
        state = start.optimizer if start is not None else inherited(node, results) or {}
        names = tuple((name, float(t) if name.startswith("step/") else 0.0) for name, t in sorted(state.items()))
        groups.setdefault((0 if start is None else start.updates, names), []).append(node)
    return list(groups.values())


def inherited(node: Node, results: Mapping[str, StageResult]) -> Mapping[str, Tensor] | None:
    """The optimizer state the stage goes on with; None if it starts with a fresh one."""
    if not node.parents or node.stage.reset_optimizer:
        return None
    state = results[node.parents[0]].optimizer
    assert state is not None, node.key
    return state


def starting_model(
    config: Config, node: Node, results: Mapping[str, StageResult], place: Device, *, fresh: bool = False
) -> nn.Module:
    """The stage's network at its starting weights; `fresh`: at its initial ones, others being loaded later."""
    stream, start = node.stream, node.stage.start
    model = build_model(config.arch, stream.input_shape, stream.n_outputs, node.seed, place.dtype)
    if fresh:
        return model
    parents = [results[key].weights for key in node.parents]
    if start.kind == "previous":
        model.load_state_dict(dict(parents[0]))
    elif start.kind == "shrink_perturb":
        noise = build_model(
            config.arch, stream.input_shape, stream.n_outputs, node.seed, place.dtype, address=("perturb", node.level)
        )
        model.load_state_dict(shrink_perturb(parents[0], noise, start.shrink, start.perturb))
    elif start.kind == "average":
        model.load_state_dict(average(parents, start.weights))
    elif start.kind == "file":
        assert start.path is not None
        model.load_state_dict(read(start.path, model.state_dict()))
    else:
        assert start.kind == "fresh", start.kind
    return model


def shrink_perturb(weights: Mapping[str, Tensor], noise: nn.Module, shrink: float, perturb: float) -> ModelState:
    """shrink * weights + perturb * freshly drawn initial weights (Ash & Adams 2020); buffers stay as they are."""
    drawn = dict(noise.named_parameters())
    return {
        name: shrink * tensor + perturb * drawn[name].detach() if name in drawn else tensor
        for name, tensor in weights.items()
    }


def average(parents: Sequence[Mapping[str, Tensor]], mixing: Sequence[float]) -> ModelState:
    """The weighted mean of several models' weights; whole-number buffers are the first model's."""
    return {
        name: sum((w * parent[name] for w, parent in zip(mixing, parents, strict=True)), torch.zeros_like(tensor))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in parents[0].items()
    }
