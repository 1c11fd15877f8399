"""How initial weights are drawn: torch's own for each layer, or by a named function of `torch.nn.init`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

Initial = Literal["default", "kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal", "orthogonal"]


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
