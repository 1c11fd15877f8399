"""The optimizers: each is its settings, its checks, and the torch optimizer that it builds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from src.errors import ConfigError
from src.typed import bounds

if TYPE_CHECKING:
    from torch import Tensor, optim


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(ABC):
    """The settings that all optimizers share."""

    name: str
    """The optimizer's key in the catalog."""
    lr: float = field(metadata=bounds(gt=0))
    """Learning rate; a regime's `lr_factor` multiplies it."""
    batch_size: int | Literal["full"] = field(metadata=bounds(ge=1))
    """Samples of an update; `full`: the whole mixture."""
    momentum: float = field(metadata=bounds(ge=0, lt=1))
    """Momentum, for optimizers that have it."""
    weight_decay: float = field(metadata=bounds(ge=0))
    """Factor on the weights that is added to the gradient (`adamw`: subtracted from the weights, times the rate)."""
    schedule: Literal["constant", "cosine"]
    """Learning rate over a stage: constant, or a cosine that falls to 0."""

    def check(self) -> None:
        """Raise ConfigError for a setting without effect."""
        if self.momentum:
            raise ConfigError("optimizer.momentum", self.momentum, f"has no effect with optimizer={self.name}")

    @abstractmethod
    def build(self, parameters: Sequence[Tensor], *, lr: float, foreach: bool) -> optim.Optimizer:
        """The torch optimizer of `parameters`.

        Every operation must be elementwise: `parameters` may hold many models, which must not affect each other.
        """


class SgdConfig(OptimizerConfig):
    """Stochastic gradient descent with momentum."""

    def check(self) -> None:
        return

    def build(self, parameters: Sequence[Tensor], *, lr: float, foreach: bool) -> optim.Optimizer:
        from torch.optim import SGD

        return SGD(parameters, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay, foreach=foreach)


class AdamConfig(OptimizerConfig):
    """Adam (Kingma & Ba 2015)."""

    decouples_decay: ClassVar[bool] = False

    def build(self, parameters: Sequence[Tensor], *, lr: float, foreach: bool) -> optim.Optimizer:
        from torch.optim import Adam, AdamW

        kind = AdamW if self.decouples_decay else Adam
        return kind(parameters, lr=lr, weight_decay=self.weight_decay, foreach=foreach, fused=False)


class AdamwConfig(AdamConfig):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    decouples_decay = True


OPTIMIZERS: dict[str, type[OptimizerConfig]] = {"sgd": SgdConfig, "adam": AdamConfig, "adamw": AdamwConfig}
