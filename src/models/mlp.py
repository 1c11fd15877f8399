"""`arch=mlp`: fully connected layers with ReLU; and the stack of Linear layers that `arch=linear` shares."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, ClassVar

from src.errors import ConfigError
from src.models.architecture import Architecture
from src.typed import bounds

if TYPE_CHECKING:
    from torch import nn


def perceptron(input_shape: tuple[int, ...], widths: tuple[int, ...], n_outputs: int, *, bias: bool) -> nn.Sequential:
    """Hidden layers of `widths` units with ReLU, then the head; without widths a linear model."""
    from torch import nn

    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    n_inputs = prod(input_shape)
    for number, width in enumerate(widths, start=1):
        modules[f"hidden_{number}"] = nn.Linear(n_inputs, width, bias=bias)
        modules[f"relu_{number}"] = nn.ReLU()
        n_inputs = width
    modules["head"] = nn.Linear(n_inputs, n_outputs, bias=bias)
    return nn.Sequential(modules)


@dataclass(frozen=True, kw_only=True)
class MlpArch(Architecture):
    """Fully connected hidden layers with ReLU, then a linear head."""

    needs_images: ClassVar[bool] = False

    widths: tuple[int, ...] = field(metadata=bounds(ge=1))
    """Units of each hidden layer."""
    depth: int | None = field(metadata=bounds(ge=1))
    """How often a single width is repeated; null: once."""

    def check(self) -> None:
        if not self.widths:
            raise ConfigError("arch.widths", [], "needs at least one layer; use arch=linear for none")
        if self.depth is not None and len(self.widths) != 1:
            n = len(self.widths)
            problem = f"repeats a single width, and arch.widths has {n}; give one width or arch.depth=null"
            raise ConfigError("arch.depth", self.depth, problem)

    def network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        return perceptron(input_shape, self.widths * (self.depth or 1), n_outputs, bias=True)
