"""The weights on the way through a stage: the stage is trained once more, by the same loop, and watched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from src.config import Config
from src.models.build import build_model
from src.training.feed import Place
from src.training.fit import fit
from src.training.plan import Node
from src.training.replicas import Replicas, State
from src.training.result import StageResult


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Weights after `updates[i]` updates of a stage, from 0 (its start) to its last update.

    `exact`: the stage ended bit for bit where the stored one did (a machine of another kind may round otherwise).
    """

    updates: tuple[int, ...]
    weights: tuple[State, ...]
    exact: bool


@dataclass
class _Watcher:
    """A penalty of zero: the training loop shows it the weights before every update, and nothing else changes."""

    wanted: Collection[int]
    updates: int = 0
    seen: dict[int, State] = field(default_factory=dict)

    def __call__(self, replicas: Replicas, x: Tensor, outputs: Tensor) -> Tensor:
        del x
        if self.updates in self.wanted:
            self.seen[self.updates] = replicas.states()[0]
        self.updates += 1
        return torch.zeros(outputs.shape[0], dtype=outputs.dtype, device=outputs.device)


def points(n_updates: int, n_most: int) -> list[int]:
    """At most about `n_most` numbers of updates from 0 to `n_updates`, closest together where a stage moves fastest."""
    if n_updates + 1 <= n_most:
        return list(range(n_updates + 1))
    spaced = np.geomspace(1, n_updates, n_most - 1)
    return sorted({0, n_updates, *(round(value) for value in spaced)})


def trajectory(
    config: Config,
    node: Node,
    stored: StageResult,
    parent: StageResult | None,
    place: Place,
    *,
    at: Sequence[int],
) -> Trajectory:
    """Trains a stage again from where it started, keeping its weights after each of `at` updates.

    `stored`: what the stage left when it was first trained. `parent`: the stage it starts from (None: fresh weights).
    Raises ValueError for a stage that starts or is held back in another way.
    """
    kind = node.stage.start.kind
    if node.stage.penalty.kind != "none" or kind not in ("fresh", "previous") or (kind == "fresh") != (parent is None):
        raise ValueError(f"a stage that starts from {kind} weights or has a penalty is not watched")
    model = build_model(config.arch, node.stream.input_shape, node.stream.n_outputs, node.seed, place.dtype)
    optimizer_states: list[Mapping[str, Tensor]] | None = None
    if parent is not None:
        model.load_state_dict(dict(parent.weights))
        if not node.stage.reset_optimizer:
            if parent.optimizer is None:
                raise ValueError("the optimizer state that the stage goes on with was not kept")
            optimizer_states = [parent.optimizer]
    watcher = _Watcher(frozenset(at))
    (again,) = fit(config, [node], [model], place, optimizer_states=optimizer_states, penalty=watcher)
    seen = {k: state for k, state in watcher.seen.items() if k < stored.ledger.updates}
    seen[stored.ledger.updates] = dict(again.weights)
    exact = all(torch.equal(again.weights[name], tensor) for name, tensor in stored.weights.items())
    return Trajectory(tuple(sorted(seen)), tuple(seen[k] for k in sorted(seen)), exact)
