"""`arch=resnet18`: ResNet-18 for small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.models.architecture import Architecture

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Resnet18Arch(Architecture):
    """torchvision's ResNet-18 with He et al.'s (2016, section 4.2) stem for small images: 3x3, stride 1, no pooling."""

    def network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        from torch import nn
        from torchvision.models import resnet18

        model = resnet18(weights=None, num_classes=n_outputs)
        model.conv1 = nn.Conv2d(input_shape[0], 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own stem
        model.maxpool = nn.Identity()
        assert isinstance(model, nn.Module)
        return model
