"""What replayed samples are trained to give in place of their labels: the labels or outputs of an earlier network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from src.data.batches import Positions
from src.evaluation.heads import OUTSIDE, within
from src.training.losses import SampleLosses, losses_of
from src.training.penalties.kind import PenaltyContext
from src.training.plan import Node

ROWS_AT_ONCE = 256


@dataclass(eq=False)
class KeptOutputs:
    """The loss of batches in which the target -1 - i stands for the i-th sample of the memory.

    Its loss is strength x mean squared distance of the outputs to the kept ones + labels x the loss of its class.
    """

    outputs: Sequence[Tensor]
    """Of every model [memory, K]; those of classes that its head lacked are not compared."""
    classes: Sequence[Tensor]
    """Of every model [memory]."""
    strength: float
    labels: float
    plain: SampleLosses
    """The loss of a sample's class."""
    _placed: dict[torch.dtype, list[Tensor]] = field(default_factory=dict)
    """`outputs` on the device, by precision."""

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        is_kept, index = y < 0, (-1 - y).clamp(min=0)
        if outputs.dtype not in self._placed:
            self._placed[outputs.dtype] = [own.to(outputs) for own in self.outputs]
            self.classes = [own.to(y.device) for own in self.classes]
        kept = torch.stack([own[i] for own, i in zip(self._placed[outputs.dtype], index, strict=True)])
        classes = torch.stack([own[i] for own, i in zip(self.classes, index, strict=True)])
        losses = self.plain(outputs, torch.where(is_kept, classes, y))
        distance = (outputs - kept).masked_fill(kept == OUTSIDE, 0).square().mean(-1)
        return torch.where(is_kept, self.strength * distance + self.labels * losses, losses)


def with_targets(context: PenaltyContext, nodes: Sequence[Node]) -> tuple[list[Node], SampleLosses]:
    """The stages with the targets of their replayed samples, and the loss that takes them."""
    settings, plain = nodes[0].stage.targets, losses_of(context.config, nodes[0])
    if settings.kind == "labels":
        return list(nodes), plain
    changed, outputs, classes = [], [], []
    for node in nodes:
        kept, own = _kept(context, node)
        labels, positions = node.data.labels.clone(), torch.from_numpy(kept)
        if settings.kind == "model":
            labels[positions] = own.to(labels.dtype) if labels.is_floating_point() else own.argmax(-1)
        else:
            outputs.append(own)
            classes.append(labels[positions])
            labels[positions] = -1 - torch.arange(len(positions))
        changed.append(dataclasses.replace(node, data=dataclasses.replace(node.data, targets=labels)))
    if settings.kind == "model":
        return changed, plain
    return changed, KeptOutputs(outputs, classes, settings.strength, settings.labels, plain)


def n_kept(node: Node) -> int:
    """Samples whose targets an earlier network gives: each takes one forward pass."""
    return sum(len(pool) for pool in node.data.pools[:-1]) if node.teachers else 0


def _kept(context: PenaltyContext, node: Node) -> tuple[Positions, Tensor]:
    """Positions of the replayed samples, and the outputs of their teachers for them, [samples, K]."""
    positions = np.sort(np.concatenate(node.data.pools[:-1]))
    outputs = []
    for (part, _, own), teacher in zip(node.data.rows_by_part(positions), node.teachers, strict=False):
        model = context.model(context.plan.nodes[teacher]).to(context.device.torch_device).eval()
        with torch.no_grad():
            for rows in torch.split(own, ROWS_AT_ONCE):
                x = part.bank.scale(part.bank.x[rows].to(context.device.torch_device), context.device.dtype)
                outputs.append(within(model(x).cpu(), context.plan.nodes[teacher].outputs))
    return positions, torch.cat(outputs)
