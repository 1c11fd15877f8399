"""The weights on the way through a stage: the stage is trained once more, by the same loop, and watched."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from src.config import Config
from src.data.stream import Stream
from src.models.build import build_model
from src.models.structure import prefers_vmap
from src.training.devices import Device
from src.training.fit import fit
from src.training.plan import Node, make_plan
from src.training.replicas import ModelState, Replicas
from src.training.result import StageResult


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Weights after `updates[i]` updates of a stage, from 0 (its start) to its last update.

    `exact`: the stage ended bit for bit where the stored one did (a machine of another kind may round otherwise).
    """

    updates: tuple[int, ...]
    weights: tuple[ModelState, ...]
    exact: bool


@dataclass(frozen=True, eq=False)
class TrajectoryRequest:
    """A stage to be trained again. `stored`: what it left when it was first trained; `parent`: the stage it starts from
    (None: fresh weights); `at`: updates after which its weights are kept."""

    node: Node
    stored: StageResult
    parent: StageResult | None
    at: Collection[int]


@dataclass
class _Watcher:
    """A penalty of zero: the training loop shows it the weights before every update, and nothing else changes."""

    wanted: Sequence[Collection[int]]
    """For every model of the group."""
    updates: int = 0
    seen: list[dict[int, ModelState]] = field(init=False)

    def __post_init__(self) -> None:
        self.seen = [{} for _ in self.wanted]

    def __call__(self, replicas: Replicas, x: Tensor, outputs: Tensor) -> Tensor:
        del x
        asking = [r for r, updates in enumerate(self.wanted) if self.updates in updates]
        states = replicas.states() if asking else []
        for r in asking:
            self.seen[r][self.updates] = states[r]
        self.updates += 1
        return torch.zeros(outputs.shape[0], dtype=outputs.dtype, device=outputs.device)


def points(n_updates: int, n_most: int) -> list[int]:
    """At most about `n_most` numbers of updates from 0 to `n_updates`, closest together where a stage moves fastest."""
    if n_updates + 1 <= n_most:
        return list(range(n_updates + 1))
    spaced = np.geomspace(1, n_updates, n_most - 1)
    return sorted({0, n_updates, *(round(value) for value in spaced)})


def nodes_of(config: Config, stream: Stream, label: str, keys: Sequence[str]) -> list[Node]:
    """The stages of the regime called `label` on a seed's stream, as they are planned today.

    Raises ValueError where that is no longer the recipe that trained the stages `keys`.
    """
    regime = next((one for one in config.regimes if one.label == label), None)
    plan = make_plan(config, {stream.seed: stream}, [(regime, stream.seed)]) if regime is not None else None
    if plan is None or list(plan.runs[0].stages) != list(keys):
        raise ValueError(f"the recipe of {label} is no longer the one that its stages were trained by")
    return [plan.nodes[key] for key in plan.runs[0].stages]


def record_trajectories(config: Config, stages: Sequence[TrajectoryRequest], place: Device) -> Iterator[Trajectory]:
    """Trains stages again from where they started, keeping their weights on the way: one trajectory for each of `stages`.

    Stacks train side by side, as they did at first; other networks one after the other, each when it is asked for, for its
    weights may be large. Raises ValueError for a stage that starts or is held back in another way.
    """
    models = (_starting_model(config, stage, place) for stage in stages)
    groups: dict[str, list[int]] = {}
    kept: dict[int, nn.Module] = {}
    for k, (stage, model) in enumerate(zip(stages, models, strict=True)):
        if not prefers_vmap(model) or not stage.node.stage.reset_optimizer:
            assert not kept, "stages of one cell have one network"
            yield from _train_again(config, [stage], [model], place)
            continue
        groups.setdefault(stage.node.shape, []).append(k)
        kept[k] = model
    found: dict[int, Trajectory] = {}
    for group in groups.values():
        found.update(
            zip(group, _train_again(config, [stages[k] for k in group], [kept[k] for k in group], place), strict=True)
        )
    yield from (found[k] for k in sorted(found))


def _starting_model(config: Config, stage: TrajectoryRequest, place: Device) -> nn.Module:
    node, kind = stage.node, stage.node.stage.start.kind
    is_fresh = stage.parent is None
    if node.stage.penalty.kind != "none" or kind not in ("fresh", "previous") or (kind == "fresh") != is_fresh:
        raise ValueError(f"a stage that starts from {kind} weights or has a penalty is not watched")
    model = build_model(config.arch, node.stream.input_shape, node.stream.n_outputs, node.seed, place.dtype)
    if stage.parent is not None:
        model.load_state_dict(dict(stage.parent.weights))
    return model


def _train_again(
    config: Config, stages: Sequence[TrajectoryRequest], models: Sequence[nn.Module], place: Device
) -> list[Trajectory]:
    going_on = [stage.parent for stage in stages if stage.parent is not None and not stage.node.stage.reset_optimizer]
    states = [parent.optimizer for parent in going_on if parent.optimizer is not None]
    if len(states) < len(going_on):
        raise ValueError("the optimizer state that the stage goes on with was not kept")
    watcher = _Watcher([frozenset(stage.at) for stage in stages])
    nodes = [stage.node for stage in stages]
    ends = fit(config, nodes, models, place, optimizer_states=states or None, penalty=watcher)
    found = []
    for stage, end, on_the_way in zip(stages, ends, watcher.seen, strict=True):
        n = stage.stored.ledger.updates
        seen = {k: state for k, state in on_the_way.items() if k < n} | {n: dict(end.weights)}
        exact = all(torch.equal(end.weights[name], tensor) for name, tensor in stage.stored.weights.items())
        found.append(Trajectory(tuple(sorted(seen)), tuple(seen[k] for k in sorted(seen)), exact))
    return found
