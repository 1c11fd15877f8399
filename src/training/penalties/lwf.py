"""Learning without forgetting (Li & Hoiem 2017): holds the outputs near those of an earlier stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.evaluation.heads import Groups, within
from src.evaluation.metrics import Loss
from src.training.graph.choice import form_of
from src.training.penalties.kind import PenaltyContext, PenaltyKind
from src.training.plan import Node, StagePlan
from src.training.replicas import PenaltyTerm, Replicas


@dataclass
class OutputPenalty:
    """strength x mean over the batch of the distance between each model's outputs and its teacher's on the same inputs.

    Kullback-Leibler divergence of softmax(outputs / temperature) from softmax(teacher / temperature): the cross entropy
    of Li & Hoiem 2017 less a constant, without a factor temperature^2, as theirs. For ``mse`` the squared error of the
    outputs, mean over columns, without a temperature.
    """

    teacher: Replicas
    strength: float
    temperature: float
    loss: Loss
    heads: Groups = ()
    """The softmaxes that are compared, each alone, with equal weights; none: one over all outputs."""
    taught: tuple[int, ...] | None = None
    """The classes that the teacher has learnt, whose softmax gives all others 0; None: all."""
    _columns: list[Any] | None = None
    """The outputs of each softmax, as indices on the device."""

    def __call__(self, replicas: Replicas, x: Tensor, outputs: Tensor) -> Tensor:
        """The addition to each model's loss [R]."""
        with torch.no_grad():
            targets = self.teacher(x)
            if self.taught is not None:
                targets = within(targets, self.taught)
        if self.loss == "mse":
            distance = (outputs - targets).square().mean(-1)
        else:
            if self._columns is None:
                self._columns = [torch.tensor(group, device=outputs.device) for group in self.heads] or [slice(None)]
            pairs = [(targets[..., c], outputs[..., c]) for c in self._columns]
            distance = torch.stack([self._divergence(*pair) for pair in pairs]).mean(0)
        penalty: Tensor = self.strength * distance.mean(1)
        return penalty

    def _divergence(self, targets: Tensor, outputs: Tensor) -> Tensor:
        wanted = (targets / self.temperature).log_softmax(-1)
        return (wanted.exp() * (wanted - (outputs / self.temperature).log_softmax(-1))).sum(-1)


class Lwf(PenaltyKind):
    """The network at the end of the earlier stage is the teacher."""

    def make(self, context: PenaltyContext, nodes: Sequence[Node], anchors: Sequence[Node]) -> PenaltyTerm:
        settings, device = nodes[0].stage.penalty, context.device.torch_device
        models = [context.model(node) for node in anchors]
        form = form_of(context.config, models[0], nodes[0].stream.input_shape, context.device)
        teacher = form.replicas(models, set()).to(device).eval()
        heads, taught = anchors[0].heads, None
        if settings.new_classes:
            heads, (taught,) = nodes[0].heads, anchors[0].heads
        return OutputPenalty(teacher, settings.strength, settings.temperature, context.config.loss, heads, taught)

    def extra_passes(self, plan: StagePlan, node: Node, samples: int) -> float:
        """The teacher's forward passes."""
        return samples / 3
