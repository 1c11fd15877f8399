"""Walks the plan: every stage is loaded from the store or fit, in groups; what fails takes only its own runs with it."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from src.config import Config, ConfigError
from src.models.build import build_model
from src.regimes.checkpoint import read
from src.training.feed import Place
from src.training.fit import fit
from src.training.group_size import group_limit
from src.training.penalties import extra_passes, make_penalty
from src.training.plan import Node, Plan
from src.training.replicas import State
from src.training.result import StageResult
from src.training.store import Store

T = TypeVar("T")


@dataclass
class Execution:
    """What became of a plan's stages. `results`: by key; `trained`: keys that were fit just now, the others were loaded;
    `failures`: key -> (one line, traceback), of a stage that raised and of those that needed it; `out_of_memory`: whether
    one did for want of the device's memory; `fishers`: Fisher information by the stage it was taken of."""

    store: Store
    results: dict[str, StageResult] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    out_of_memory: bool = False
    fishers: dict[str, State] = field(default_factory=dict)

    def diverged(self, key: str) -> bool:
        """Whether the stage's loss stopped being finite."""
        return key in self.results and self.results[key].ledger.diverged


def execute(
    config: Config, plan: Plan, store: Store, place: Place, on_stage: Callable[[], None] | None = None
) -> Execution:
    """Loads or trains every stage of the plan, parents first. Stages after a diverged one are not trained.

    `on_stage` is called before every group; what it raises ends the walk, and what was trained is in the store.
    """
    execution = Execution(store)
    for group in plan.groups:
        if on_stage is not None:
            on_stage()
        missing = from_first_rank(partial(_load, config, group, plan, execution, place.device.type), place)
        _share_loaded(group, execution, place)
        ready = []
        for key in missing:
            node = plan.nodes[key]
            needed = [*node.parents, *([node.penalty_parent] if node.penalty_parent else [])]
            failed = next((parent for parent in needed if parent in execution.failures), None)
            if failed is not None:
                execution.failures[key] = execution.failures[failed]
            elif all(parent in execution.results and not execution.diverged(parent) for parent in needed):
                ready.append(node)
        for nodes in _going_on_alike(ready, execution):
            _train(config, plan, nodes, execution, place)
    return execution


def _going_on_alike(nodes: Sequence[Node], execution: Execution) -> list[list[Node]]:
    """The nodes by the optimizer state they go on with: a stack of models has one step count, which all must share."""
    alike: dict[tuple[tuple[str, float], ...], list[Node]] = {}
    for node in nodes:
        state = _inherited(node, execution) or {}
        names = tuple((name, float(t) if name.startswith("step/") else 0.0) for name, t in sorted(state.items()))
        alike.setdefault(names, []).append(node)
    return list(alike.values())


def _inherited(node: Node, execution: Execution) -> Mapping[str, Tensor] | None:
    """The optimizer state the stage goes on with; None if it starts with a fresh one."""
    if not node.parents or node.stage.reset_optimizer:
        return None
    state = execution.results[node.parents[0]].optimizer
    assert state is not None, node.key
    return state


def from_first_rank(decide: Callable[[], T], place: Place) -> T:
    """What rank 0 decides, told to all ranks; alone, simply the decision."""
    if place.world == 1:
        return decide()
    box: list[T | None] = [decide() if place.rank == 0 else None]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


def _load(config: Config, keys: Sequence[str], plan: Plan, execution: Execution, device: str) -> list[str]:
    """Takes what the store has; the keys it has not."""
    for key in keys if config.trainer.reuse else ():
        result = execution.store.get(key, need_optimizer=key in plan.keep_optimizer)
        if result is not None and result.ledger.device == device:  # runs of CPU and of CUDA are never mixed
            execution.results[key] = result
    return [key for key in keys if key not in execution.results]


def _share_loaded(keys: Sequence[str], execution: Execution, place: Place) -> None:
    """Gives every rank what rank 0 loaded: only rank 0 reads the store."""
    loaded = from_first_rank(lambda: {k: execution.results[k] for k in keys if k in execution.results}, place)
    execution.results.update(loaded)


def _train(config: Config, plan: Plan, nodes: Sequence[Node], execution: Execution, place: Place) -> None:
    limit = group_limit(config, nodes[0], place)
    for start in range(0, len(nodes), limit):
        _train_group(config, plan, nodes[start : start + limit], execution, place)


def _train_group(
    config: Config, plan: Plan, group: Sequence[Node], execution: Execution, place: Place, split: str | None = None
) -> None:
    """Trains the group; if that raises, its halves apart, until what is at fault is alone: it fails, the others do not.

    `split`: why the group is a part of a larger one, for the ledger of its stages.
    """
    try:
        results = _fit(config, plan, group, execution, place)
    except ConfigError:
        raise
    except Exception as error:
        if place.world > 1:  # the other ranks wait for this one: all must end
            raise
        failure = (" ".join(f"{type(error).__name__}: {error}".split()), traceback.format_exc())
        no_memory = isinstance(error, torch.OutOfMemoryError)
    else:
        for node, trained in zip(group, results, strict=True):
            result = dataclasses.replace(trained, ledger=dataclasses.replace(trained.ledger, split=split))
            execution.results[node.key] = result
            execution.trained.add(node.key)
            if place.rank == 0:
                execution.store.put(node.key, result)
        return
    if len(group) == 1:  # outside the except clause, whose traceback holds on to the attempt's memory
        execution.failures[group[0].key] = failure
        execution.out_of_memory |= no_memory
        return
    if place.device.type == "cuda":
        torch.cuda.empty_cache()
    half, split = len(group) // 2, f"{len(group)} together: {failure[0]}"
    _train_group(config, plan, group[:half], execution, place, split)
    _train_group(config, plan, group[half:], execution, place, split)


def _fit(config: Config, plan: Plan, group: Sequence[Node], execution: Execution, place: Place) -> list[StageResult]:
    inherited = [state for node in group if (state := _inherited(node, execution)) is not None]
    results = fit(
        config,
        group,
        [_starting_model(config, node, execution, place) for node in group],
        place,
        optimizer_states=inherited or None,
        penalty=make_penalty(config, plan, group, execution.results, execution.fishers, place),
        keep_optimizer=any(node.key in plan.keep_optimizer for node in group),
    )
    return [_charged(plan, node, result) for node, result in zip(group, results, strict=True)]


def _charged(plan: Plan, node: Node, result: StageResult) -> StageResult:
    """The result with what its penalty cost in its ledger."""
    passes = extra_passes(plan, node, result.ledger.samples)
    return dataclasses.replace(result, ledger=dataclasses.replace(result.ledger, extra_passes=passes))


def _starting_model(config: Config, node: Node, execution: Execution, place: Place) -> nn.Module:
    """The stage's network at its starting weights."""
    stream, start = node.stream, node.stage.start
    model = build_model(config.arch, stream.input_shape, stream.n_outputs, node.seed, place.dtype)
    parents = [execution.results[key].weights for key in node.parents]
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


def shrink_perturb(weights: Mapping[str, Tensor], noise: nn.Module, shrink: float, perturb: float) -> State:
    """shrink * weights + perturb * freshly drawn initial weights (Ash & Adams 2020); buffers stay as they are."""
    drawn = dict(noise.named_parameters())
    return {
        name: shrink * tensor + perturb * drawn[name].detach() if name in drawn else tensor
        for name, tensor in weights.items()
    }


def average(parents: Sequence[Mapping[str, Tensor]], mixing: Sequence[float]) -> State:
    """The weighted mean of several models' weights; whole-number buffers are the first model's."""
    return {
        name: sum((w * parent[name] for w, parent in zip(mixing, parents, strict=True)), torch.zeros_like(tensor))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in parents[0].items()
    }
