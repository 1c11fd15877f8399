"""`arch=mlp`: fully connected layers; and the parts that `arch=linear` and `arch=cnn` share."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from src.errors import ConfigError
from src.models.architecture import Architecture
from src.typed import bounds

if TYPE_CHECKING:
    from torch import nn


Activation = Literal["relu", "tanh"]
Initial = Literal["default", "kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal", "orthogonal"]
"""torch's own draw for each layer, or that of a function of `torch.nn.init`."""


def unit(activation: Activation) -> nn.Module:
    """The layer of an activation."""
    from torch import nn

    return nn.ReLU() if activation == "relu" else nn.Tanh()


def perceptron(
    input_shape: tuple[int, ...],
    widths: tuple[int, ...],
    n_outputs: int,
    *,
    bias: bool,
    activation: Activation = "relu",
    dropout: float = 0.0,
) -> nn.Sequential:
    """Hidden layers of `widths` units with their activation and dropout, then the head; no widths: linear."""
    from torch import nn

    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    n_inputs = prod(input_shape)
    for number, width in enumerate(widths, start=1):
        modules[f"hidden_{number}"] = nn.Linear(n_inputs, width, bias=bias)
        modules[f"{activation}_{number}"] = unit(activation)
        if dropout:
            modules[f"dropout_{number}"] = nn.Dropout(dropout)
        n_inputs = width
    modules["head"] = nn.Linear(n_inputs, n_outputs, bias=bias)
    return nn.Sequential(modules)


def initialised(model: nn.Sequential, init: str) -> nn.Sequential:
    """The model, its linear and convolutional weights drawn by `torch.nn.init.{init}_` with its defaults and their
    biases 0.

    ``default`` leaves what the layers drew for themselves; normalisation layers keep theirs.
    """
    from torch import nn

    if init != "default":
        draw = getattr(nn.init, f"{init}_")
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                draw(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    return model


@dataclass(frozen=True, kw_only=True)
class MlpArch(Architecture):
    """Fully connected hidden layers, then a linear head."""

    later = frozenset({"activation", "dropout", "init"})
    needs_images: ClassVar[bool] = False

    widths: tuple[int, ...] = field(metadata=bounds(ge=1))
    """Units of each hidden layer."""
    depth: int | None = field(metadata=bounds(ge=1))
    """How often a single width is repeated; null: once."""
    activation: Activation = "relu"
    """After every hidden layer."""
    dropout: float = field(default=0.0, metadata=bounds(ge=0, lt=1))
    """Share of the hidden units that each update leaves out."""
    init: Initial = "default"
    """How initial weights are drawn."""

    def check(self) -> None:
        if not self.widths:
            raise ConfigError("arch.widths", [], "needs at least one layer; use arch=linear for none")
        if self.depth is not None and len(self.widths) != 1:
            n = len(self.widths)
            problem = f"repeats a single width, and arch.widths has {n}; give one width or arch.depth=null"
            raise ConfigError("arch.depth", self.depth, problem)

    def network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        widths = self.widths * (self.depth or 1)
        activation, dropout = self.activation, self.dropout
        model = perceptron(input_shape, widths, n_outputs, bias=True, activation=activation, dropout=dropout)
        return initialised(model, self.init)
