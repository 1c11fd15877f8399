"""L2 penalties: hold the weights near those of an earlier stage (L2-SP, Li et al. 2018) or near the initial ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from src.models.structure import head_names
from src.training.penalties.kind import PenaltyContext, PenaltyKind
from src.training.plan import Node
from src.training.replicas import PenaltyTerm, Replicas
from src.training.starting import initial_model, with_rows


@dataclass
class WeightPenalty:
    """strength/2 x sum_i A_i (w_i - w_i')^2 over the parameters that are trained; A is 1 unless `precisions` are given.

    `anchors`: w' of every model. `precisions`: A of every model.
    """

    anchors: Sequence[Mapping[str, Tensor]]
    precisions: Sequence[Mapping[str, Tensor]] | None
    strength: float
    _placed: dict[tuple[str, int | None], tuple[Tensor, Tensor | None]] = field(default_factory=dict)

    def __call__(self, replicas: Replicas, x: Tensor, outputs: Tensor) -> Tensor:
        """The addition to each model's loss [R], whatever the batch."""
        terms: list[list[Tensor]] = [[] for _ in range(replicas.n)]
        stacked: list[Tensor] = []
        for name, parameter, model in replicas.named_trainable():
            if model is not None and not replicas.active[model]:
                continue  # a stopped model gets no gradient, not even of zero
            if (name, model) not in self._placed:
                precision = None if self.precisions is None else _tensor(self.precisions, name, model, parameter)
                self._placed[name, model] = (_tensor(self.anchors, name, model, parameter), precision)
            square = _weighted_square(parameter, *self._placed[name, model])
            if model is None:
                stacked.append(square.flatten(1).sum(1)[: replicas.n])
            else:
                terms[model].append(square.sum())
        if stacked:
            return 0.5 * self.strength * torch.stack(stacked).sum(0)
        nothing = torch.zeros((), dtype=outputs.dtype, device=outputs.device)
        return 0.5 * self.strength * torch.stack([torch.stack(own).sum() if own else nothing for own in terms])


def _tensor(states: Sequence[Mapping[str, Tensor]], name: str, model: int | None, like: Tensor) -> Tensor:
    """The tensor `name` of one model, or of all models stacked [R, ...]; a dummy in `like` gets the last model's."""
    if model is not None:
        return states[model][name].to(like)
    rows = [state[name] for state in states]
    return torch.stack(rows + [rows[-1]] * (len(like) - len(rows))).to(like)


def _weighted_square(parameter: Tensor, anchor: Tensor, precision: Tensor | None) -> Tensor:
    square = (parameter - anchor).square()
    return square if precision is None else precision * square


class L2Init(PenaltyKind):
    """The weights are held near the seed's initial ones (Kumar et al. 2023)."""

    def make(self, context: PenaltyContext, nodes: Sequence[Node], anchors: Sequence[Node]) -> PenaltyTerm:
        weights = [initial_model(context.config, node, context.device.dtype).state_dict() for node in nodes]
        return WeightPenalty(weights, None, nodes[0].stage.penalty.strength)


class L2Sp(PenaltyKind):
    """The same strength for every weight."""

    def make(self, context: PenaltyContext, nodes: Sequence[Node], anchors: Sequence[Node]) -> PenaltyTerm:
        weights = [context.results[node.key].weights for node in anchors]
        precisions = None
        if nodes[0].new_outputs:  # rows that a growing head draws have nothing to be held near
            head = head_names(context.model(anchors[0]), nodes[0].stream.n_outputs)
            ones, zeros = (
                {name: fill(t) for name, t in weights[0].items()} for fill in (torch.ones_like, torch.zeros_like)
            )
            precisions = [with_rows(ones, zeros, head, nodes[0].new_outputs)] * len(nodes)
        return WeightPenalty(weights, precisions, nodes[0].stage.penalty.strength)
