"""Elastic weight consolidation (Kirkpatrick et al. 2017): L2-SP with weights of its terms from the Fisher
information."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from src.training.penalties.fisher import FisherInput, fisher_matrix, fisher_sum, n_vectors
from src.training.penalties.kind import PenaltyContext, PenaltyKind
from src.training.penalties.l2_sp import WeightPenalty
from src.training.plan import Node, StagePlan
from src.training.replicas import ModelState, PenaltyTerm, Replicas

WHOLE = "whole"
"""Name of the Fisher matrix in a `ModelState`."""


class Ewc(PenaltyKind):
    """Weights the terms by the diagonal of the Fisher information; `EwcFull` takes the whole matrix."""

    kind: ClassVar[str] = "ewc"

    def fisher(self, data: FisherInput) -> ModelState:
        """The Fisher information of one stage, summed over its samples."""
        return fisher_sum(data)

    def make(self, context: PenaltyContext, nodes: Sequence[Node], anchors: Sequence[Node]) -> PenaltyTerm:
        weights = [context.results[node.key].weights for node in anchors]
        totals = [self._accumulated(context, anchor) for anchor in anchors]
        precisions = [
            {name: tensor / node.data.n_samples for name, tensor in total.items()}
            for node, total in zip(nodes, totals, strict=True)
        ]
        strength = nodes[0].stage.penalty.strength
        if WHOLE not in precisions[0]:
            return WeightPenalty(weights, precisions, strength)
        names = [name for name, _ in context.model(anchors[0]).named_parameters()]
        return MatrixPenalty(weights, [own[WHOLE] for own in precisions], names, strength)

    def _accumulated(self, context: PenaltyContext, node: Node) -> ModelState:
        """Fisher information of the data of `node` and, if the stage was itself held by this penalty, of all data
        before it: a sum over samples, each data set's at the weights at the end of its own stage."""
        key = f"{node.key}/{self.kind}"
        if key not in context.fishers:
            model = context.model(node).to(context.device.torch_device)
            loss, resident_mib = context.config.loss, context.config.trainer.resident_mib
            n_outputs, device = node.stream.n_outputs, context.device
            given = FisherInput(model, node.data, n_outputs, loss, device, resident_mib, node.outputs)
            context.fishers[key] = self.fisher(given)
        total = context.fishers[key]
        if node.stage.penalty.kind == self.kind:
            assert node.penalty_parent is not None
            earlier = self._accumulated(context, context.plan.nodes[node.penalty_parent])
            total = {name: tensor + earlier[name] for name, tensor in total.items()}
        return total

    def extra_passes(self, plan: StagePlan, node: Node, samples: int) -> float:
        """Fisher information is charged to the stage that first needs it."""
        assert node.penalty_parent is not None
        return plan.nodes[node.penalty_parent].data.n_samples * (2 + 2 * n_vectors(node.stream.n_outputs)) / 3


class EwcFull(Ewc):
    """The whole Fisher matrix."""

    kind = "ewc_full"

    def fisher(self, data: FisherInput) -> ModelState:
        return {WHOLE: fisher_matrix(data)}


@dataclass
class MatrixPenalty:
    """strength/2 x (w - w')' A (w - w') with a whole matrix A over all parameters, one after the other in the order
    `names`.

    `anchors`: w' of every model. `matrices`: A of every model, [P, P].
    """

    anchors: Sequence[Mapping[str, Tensor]]
    matrices: Sequence[Tensor]
    names: Sequence[str]
    strength: float
    _placed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Anchor [P] and matrix of a model, on the device."""

    def __call__(self, replicas: Replicas, x: Tensor, outputs: Tensor) -> Tensor:
        """The addition to each model's loss [R], whatever the batch."""
        found: list[dict[str, Tensor]] = [{} for _ in range(replicas.n)]
        for name, parameter, model in replicas.named_trainable():
            for r in range(replicas.n) if model is None else [model]:
                if replicas.active[r] or model is None:  # a stopped module gets no gradient, not even of zero
                    found[r][name] = parameter[r] if model is None else parameter
        terms = []
        for r, own in enumerate(found):
            if own:
                like = next(iter(own.values()))
                every = (own[name] if name in own else self.anchors[r][name].to(like) for name in self.names)
                weights = torch.cat([parameter.flatten() for parameter in every])
                if r not in self._placed:
                    anchor = torch.cat([self.anchors[r][name].flatten() for name in self.names])
                    self._placed[r] = (anchor.to(weights), self.matrices[r].to(weights))
                anchor, matrix = self._placed[r]
                gap = weights - anchor
                terms.append(gap @ matrix @ gap)
            else:
                terms.append(torch.zeros((), dtype=outputs.dtype, device=outputs.device))
        return 0.5 * self.strength * torch.stack(terms)
