"""`arch=timm`: any image model of timm by its name, from random weights. The package is an extra that is not installed
by default."""

from __future__ import annotations

import difflib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.errors import ConfigError
from src.models.architecture import Architecture
from src.models.custom import problem_of

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class TimmArch(Architecture):
    """A model of timm, fitted to the data's channels and classes."""

    model: str
    """The model's name, as in `timm.create_model`."""

    @property
    def label(self) -> str:
        return self.model

    def check_data(self, input_shape: tuple[int, ...], n_outputs: int) -> None:
        if importlib.util.find_spec("timm") is None:
            raise ConfigError("arch", self.name, "needs the package timm, an extra; .venv/bin/uv pip install timm")
        import timm

        if not timm.is_model(self.model):
            close = difflib.get_close_matches(self.model, timm.list_models(), n=3)
            fix = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() has the names"
            raise ConfigError("arch.model", self.model, f"no model of timm; {fix}")
        if (problem := problem_of(self, input_shape, n_outputs)) is not None:
            raise ConfigError("arch.model", self.model, problem)

    def network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        """`input_shape`: (channels, height, width); models of one image size are built for that of the data."""
        import timm

        channels, height, width = input_shape
        known = timm.get_pretrained_cfg(self.model)
        size: dict[str, Any] = {"img_size": (height, width)} if known and known.fixed_input_size else {}
        model: nn.Module = timm.create_model(self.model, num_classes=n_outputs, in_chans=channels, **size)
        return model
