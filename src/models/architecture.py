"""What every architecture has in common: its settings, its checks, and the network it builds. No torch at import."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from src.errors import ConfigError
from src.regimes.checkpoint import parts_of
from src.typed import content

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """A subclass is the settings of one architecture (`arch=NAME`) and its behaviour."""

    later: ClassVar[frozenset[str]] = frozenset()
    """Settings that came later: a hash omits their defaults, so that finished work keeps its address."""
    needs_images: ClassVar[bool] = True
    """Whether samples must have the shape [channels, height, width]."""
    is_linear: ClassVar[bool] = False
    """Whether the model is one linear layer, with the parameters `head.weight` and perhaps `head.bias`."""

    name: str
    """The architecture's key in the catalog."""
    weights: str | None = None
    """A file of weights, as ``path@digest``, at which every regime starts, with a new head. null: all are drawn."""

    @property
    def label(self) -> str:
        """The value of the axis `arch`, whatever the weights."""
        return self.name

    def content(self) -> dict[str, Any]:
        """The settings as plain values, a file by its content: the architecture's part of a hash."""
        own = content(self, {"weights", *self.later})
        return own if self.weights is None else own | {"weights": parts_of(self.weights).identity}

    def weights_file(self, given: str) -> str:
        """The file that `arch.weights=given` means: the path itself."""
        return given

    @property
    def is_zero_linear(self) -> bool:
        """Whether the model is x -> W x with W = 0 at the start, whose exact risks `src.oracles.theory` knows."""
        return False

    def check(self) -> None:
        """Raise ConfigError if the settings contradict each other, whatever the data."""
        return

    def validate(self, input_shape: Sequence[int], n_outputs: int) -> None:
        """Raise ConfigError if the settings are unsound, or do not fit samples of `input_shape`.

        `input_shape`: (channels, height, width) or (features,).
        """
        assert min(input_shape) >= 1, input_shape
        assert n_outputs >= 1, n_outputs
        self.check()
        if self.needs_images and len(input_shape) != 3:
            problem = f"needs images [channels, height, width], the data has shape {list(input_shape)}; use arch=mlp"
            raise ConfigError("arch", self.name, problem)
        self.check_data(tuple(input_shape), n_outputs)

    def check_data(self, input_shape: tuple[int, ...], n_outputs: int) -> None:
        """Raise ConfigError if the network cannot take samples of this shape."""

    @abstractmethod
    def network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        """The network with its initial weights: samples [n, *input_shape] to outputs [n, n_outputs].

        Draws only from torch's default generator on the CPU, which the caller seeds.
        """
