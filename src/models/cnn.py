"""`arch=cnn`: a small convolutional network."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from src.errors import ConfigError
from src.models.architecture import Architecture
from src.models.mlp import Activation, Initial, initialised, unit
from src.typed import bounds

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class CnnArch(Architecture):
    """For each width a 3x3 convolution, activation and 2x2 max-pooling (odd sides lose a pixel); then a linear head."""

    later = frozenset({"activation", "dropout", "init"})

    widths: tuple[int, ...] = field(metadata=bounds(ge=1))
    """Channels of each convolution."""
    activation: Activation = "relu"
    """After every convolution."""
    dropout: float = field(default=0.0, metadata=bounds(ge=0, lt=1))
    """Share of the head's inputs that each update leaves out."""
    init: Initial = "default"
    """How initial weights are drawn."""

    def check(self) -> None:
        if not self.widths:
            raise ConfigError("arch.widths", [], "needs at least one layer; use arch=linear for none")

    def check_data(self, input_shape: tuple[int, ...], n_outputs: int) -> None:
        side, n_pools = min(input_shape[1:]), len(self.widths)
        if side < 2**n_pools:
            fits = side.bit_length() - 1
            fix = f"give at most {fits} width{'s' if fits > 1 else ''}" if fits else "use arch=mlp"
            problem = f"{n_pools} poolings halve the image {n_pools} times, too often for a side of {side} pixels"
            raise ConfigError("arch.widths", list(self.widths), f"{problem}; {fix}")

    def network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        from torch import nn

        channels, height, width_px = input_shape
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for number, width in enumerate(self.widths, start=1):
            modules[f"conv_{number}"] = nn.Conv2d(channels, width, kernel_size=3, padding=1)
            modules[f"{self.activation}_{number}"] = unit(self.activation)
            modules[f"pool_{number}"] = nn.MaxPool2d(2)
            channels, height, width_px = width, height // 2, width_px // 2
        modules["flatten"] = nn.Flatten()
        if self.dropout:
            modules["dropout"] = nn.Dropout(self.dropout)
        modules["head"] = nn.Linear(channels * height * width_px, n_outputs)
        return initialised(nn.Sequential(modules), self.init)
