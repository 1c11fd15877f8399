"""`arch=linear`: softmax regression on images, linear regression in the linear lab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from src.models.architecture import Architecture
from src.models.mlp import Initial, initialised, perceptron

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class LinearArch(Architecture):
    """One linear layer."""

    needs_images: ClassVar[bool] = False
    is_linear: ClassVar[bool] = True

    bias: bool
    """Whether the layer has a bias."""
    init: Initial | Literal["zero"]
    """How initial weights are drawn; or all zero."""

    @property
    def is_zero_linear(self) -> bool:
        return self.init == "zero" and not self.bias

    def network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        model = perceptron(input_shape, (), n_outputs, bias=self.bias)
        if self.init == "zero":
            for parameter in model.parameters():
                parameter.data.zero_()
            return model
        return initialised(model, self.init)
