"""Trajectories: the weights inside a stage, recorded while the same loop trains the stage once more."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from src.config import Config
from src.data.stream import Stream
from src.training.devices import Device
from src.training.fit import fit
from src.training.graph.choice import form_of
from src.training.plan import Node, make_plan
from src.training.replicas import ModelState, Replicas
from src.training.result import StageResult
from src.training.starting import starting_model


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Weights after `updates[i]` updates of a stage, from 0 (its start) to its last update.

    `exact`: whether the final weights are those of the stored stage, bit for bit (another kind of machine may round
    differently).
    """

    updates: tuple[int, ...]
    weights: tuple[ModelState, ...]
    exact: bool


@dataclass(frozen=True, eq=False)
class TrajectoryRequest:
    """A stage to retrain. `stored`: its result; `parent`: the result of the stage it starts from (None: fresh weights);
    `at`: numbers of updates after which to record the weights."""

    node: Node
    stored: StageResult
    parent: StageResult | None
    at: Collection[int]


def points(n_updates: int, n_most: int) -> list[int]:
    """About `n_most` numbers of updates from 0 to `n_updates`, densest at the start, where weights change fastest."""
    if n_updates + 1 <= n_most:
        return list(range(n_updates + 1))
    spaced = np.geomspace(1, n_updates, n_most - 1)
    return sorted({0, n_updates, *(round(value) for value in spaced)})


def nodes_of(config: Config, stream: Stream, label: str, keys: Sequence[str]) -> list[Node]:
    """The stages of the regime called `label` on a seed's stream.

    Raises ValueError unless their keys are still `keys`.
    """
    regime = next((one for one in config.regimes if one.label == label), None)
    plan = make_plan(config, {stream.seed: stream}, [(regime, stream.seed)]) if regime is not None else None
    if plan is None or list(plan.runs[0].stages) != list(keys):
        raise ValueError(f"the recipe of {label} is no longer the one that its stages were trained by")
    return [plan.nodes[key] for key in plan.runs[0].stages]


def record_trajectories(config: Config, stages: Sequence[TrajectoryRequest], device: Device) -> Iterator[Trajectory]:
    """Retrains stages and yields the trajectory of each, in order.

    Stacked models train side by side; others one by one on demand, since their weights may be large. Raises ValueError
    for a stage with a penalty or another start than fresh or previous weights.
    """
    groups: dict[str, dict[int, nn.Module]] = {}  # shape -> the models that train side by side, by stage
    for k, stage in enumerate(stages):
        model = _starting_model(config, stage, device)
        is_stacked = form_of(config, model, stage.node.stream.input_shape, device).is_stacked
        if is_stacked and stage.node.stage.reset_optimizer:
            groups.setdefault(stage.node.shape, {})[k] = model
        else:
            assert not groups, "stages of one cell have one network"
            yield from _retrain(config, [stage], [model], device)
    found: dict[int, Trajectory] = {}
    for models in groups.values():
        trained = _retrain(config, [stages[k] for k in models], list(models.values()), device)
        found |= dict(zip(models, trained, strict=True))
    yield from (found[k] for k in sorted(found))


def _starting_model(config: Config, stage: TrajectoryRequest, device: Device) -> nn.Module:
    node, kind = stage.node, stage.node.stage.start.kind
    is_fresh = stage.parent is None
    if (
        node.stage.penalty.kind != "none"
        or node.teachers
        or kind not in ("fresh", "previous")
        or (kind == "fresh") != is_fresh
    ):
        raise ValueError(f"a stage that starts from {kind} weights or has a penalty cannot be retrained")
    results = {} if stage.parent is None else {node.parents[0]: stage.parent}
    return starting_model(config, node, results, device)


def _retrain(
    config: Config, stages: Sequence[TrajectoryRequest], models: Sequence[nn.Module], device: Device
) -> list[Trajectory]:
    inheriting = [s.parent for s in stages if s.parent is not None and not s.node.stage.reset_optimizer]
    states = [parent.optimizer for parent in inheriting if parent.optimizer is not None]
    if len(states) < len(inheriting):
        raise ValueError("the optimizer state that the stage inherits was not stored")
    wanted, n_updates = [frozenset(stage.at) for stage in stages], itertools.count()
    records: list[dict[int, ModelState]] = [{} for _ in stages]

    def record(replicas: Replicas) -> None:
        n = next(n_updates)
        models_now = [r for r, at in enumerate(wanted) if n in at]
        current = replicas.states() if models_now else []
        for r in models_now:
            records[r][n] = current[r]

    nodes = [stage.node for stage in stages]
    results = fit(config, nodes, models, device, optimizer_states=states or None, observer=record)
    found = []
    for stage, result, recorded in zip(stages, results, records, strict=True):
        n = stage.stored.ledger.updates
        weights = {k: state for k, state in recorded.items() if k < n} | {n: dict(result.weights)}
        exact = all(torch.equal(result.weights[name], tensor) for name, tensor in stage.stored.weights.items())
        found.append(Trajectory(tuple(sorted(weights)), tuple(weights[k] for k in sorted(weights)), exact))
    return found
