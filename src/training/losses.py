"""The training loss of every sample of a stage."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from src.config import Config
from src.evaluation.heads import head_mask, in_own_head
from src.evaluation.metrics import sample_losses, smoothed_losses
from src.training.plan import Node

SampleLosses = Callable[[Tensor, Tensor], Tensor]
"""Maps outputs [..., K] and targets [...] to the loss of every sample [...]."""


def losses_of(config: Config, node: Node) -> SampleLosses:
    """The loss of the cell's configuration, with label smoothing, over the softmaxes of the stage."""
    mask = head_mask(node.heads, node.stream.n_outputs) if node.heads else None

    def losses(outputs: Tensor, y: Tensor) -> Tensor:
        nonlocal mask
        mask = None if mask is None else mask.to(outputs.device)  # copied by the first update only
        if config.label_smoothing:
            return smoothed_losses(outputs, y, config.label_smoothing)
        return sample_losses(in_own_head(outputs, y, mask), y, config.loss)

    return losses
