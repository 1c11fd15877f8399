"""Direction-aware shrinking (Shin et al. 2024): units shrink by how far descent on the new data agrees with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from src.config import Config
from src.training.devices import Device
from src.training.feed import make_feed
from src.training.losses import losses_of
from src.training.plan import Node


def dash(config: Config, node: Node, model: nn.Module, device: Device) -> Mapping[str, Tensor]:
    """The weights of `model` shrunk for the stage `node`: w <- max(floor, cos(w, -g)) w for each unit.

    g: the gradients of the batches of the stage's first epoch, each new one with weight alpha in the moving average, in
    evaluation mode. A unit is a row of a linear layer, one kernel [h, w] of a convolution, or a layer's vector of
    biases; other parameters stay. As in the authors' code.
    """
    start, place = node.stage.start, device.torch_device
    model = model.to(place).eval()
    units = {
        f"{path}.{name}" if path else name: parameter
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
        for name, parameter in layer.named_parameters(recurse=False)
    }
    means = {name: torch.zeros_like(parameter) for name, parameter in units.items()}
    losses = losses_of(config, node)
    alone = dataclasses.replace(device, rank=0, world=1)
    for x, y, _ in make_feed([node.data], node.length, alone, config.trainer.resident_mib):
        loss = losses(model(x[0]), y[0]).mean()
        for name, gradient in zip(units, torch.autograd.grad(loss, list(units.values())), strict=True):
            means[name] = (1 - start.alpha) * means[name] - start.alpha * gradient
    with torch.no_grad():
        for name, parameter in units.items():
            rows = parameter.flatten(2) if parameter.ndim > 2 else parameter
            direction = means[name].flatten(2) if parameter.ndim > 2 else means[name]
            factor = cosine_similarity(direction, rows, dim=-1).clamp(min=start.shrink, max=1.0)
            parameter.copy_((rows * factor.unsqueeze(-1)).view_as(parameter))
    return model.cpu().train().state_dict()  # a group is of models in one mode
