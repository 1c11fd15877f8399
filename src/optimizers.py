"""The optimizers: each is its settings, its checks, and the torch optimizer that it builds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from src.errors import ConfigError
from src.typed import bounds, content

if TYPE_CHECKING:
    from torch import Tensor, optim

DECAY = 0.2
"""Share of a stage over which `stable_decay` falls to 0."""


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
    schedule: Literal["constant", "cosine", "linear", "stable_decay"]
    """Learning rate over a stage after its warm-up: constant; a cosine or a line that falls to 0; or constant, then a
    line to 0 over the last fifth (warm-up, stable, decay: Hu et al. 2024)."""
    warmup: int = field(default=0, metadata=bounds(ge=0))
    """Updates at the start of every stage over which the rate rises in equal steps to its full value."""
    clip: float | None = field(default=None, metadata=bounds(gt=0))
    """Largest norm of a model's whole gradient; a longer one is scaled down to it."""
    span: Literal["stage", "run"] = "stage"
    """What the schedule and its warm-up extend over: every stage anew, or all stages on the same fresh weights."""

    def content(self) -> dict[str, Any]:
        """The settings as plain values: the optimizer's part of a hash. Later ones are left out at their default."""
        return content(self, ("warmup", "clip", "span"), of=OptimizerConfig)

    def rate(self, update: int, n_updates: int) -> float:
        """The factor on the learning rate of an update (from 0) in a stage or span of `n_updates`."""
        n, k = max(n_updates - self.warmup, 1), update - self.warmup
        if k < 0:
            return (update + 1) / (self.warmup + 1)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(k / n, 1.0)))
        if self.schedule == "linear":
            return max(1 - k / n, 0.0)
        return min(1.0, max(1 - k / n, 0.0) / DECAY) if self.schedule == "stable_decay" else 1.0

    @property
    def is_constant(self) -> bool:
        """Whether the rate is the same in all updates of a stage, however long it is."""
        return self.schedule == "constant" and not self.warmup

    @property
    def is_capturable(self) -> bool:
        """Whether there is a `build_capturable`."""
        return type(self).build_capturable is not OptimizerConfig.build_capturable

    def check(self) -> None:
        """Raise ConfigError for a setting without effect."""
        if self.span == "run" and self.is_constant:
            raise ConfigError(
                "optimizer.span", "run", "has no effect at a constant rate; set optimizer.schedule or warmup"
            )
        self.check_own()

    def check_own(self) -> None:
        """The same for what only some optimizers have."""
        if self.momentum:
            raise ConfigError("optimizer.momentum", self.momentum, f"has no effect with optimizer={self.name}")

    @abstractmethod
    def build(self, parameters: Sequence[Tensor], *, lr: float, foreach: bool) -> optim.Optimizer:
        """The torch optimizer of `parameters`.

        Every operation must be elementwise: `parameters` may hold many models, which must not affect each other.
        """

    def build_capturable(self, parameters: Sequence[Tensor], *, lr: Tensor) -> optim.Optimizer:
        """The same optimizer in a form whose steps a CUDA graph can record: the learning rate and all state are tensors on
        the device. An optimizer without this form trains eagerly."""
        raise NotImplementedError


class SgdConfig(OptimizerConfig):
    """Stochastic gradient descent with momentum."""

    def check_own(self) -> None:
        return

    def build(self, parameters: Sequence[Tensor], *, lr: float, foreach: bool) -> optim.Optimizer:
        from torch.optim import SGD

        return SGD(parameters, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay, foreach=foreach)

    def build_capturable(self, parameters: Sequence[Tensor], *, lr: Tensor) -> optim.Optimizer:
        from torch.optim import SGD

        momentum, decay = self.momentum, self.weight_decay
        # its foreach form reads the value of the rate, which waits for the device
        return SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay, foreach=False, fused=lr.is_cuda)


class AdamConfig(OptimizerConfig):
    """Adam (Kingma & Ba 2015)."""

    decouples_decay: ClassVar[bool] = False

    def build(self, parameters: Sequence[Tensor], *, lr: float, foreach: bool) -> optim.Optimizer:
        return self._kind()(parameters, lr=lr, weight_decay=self.weight_decay, foreach=foreach, fused=False)

    def build_capturable(self, parameters: Sequence[Tensor], *, lr: Tensor) -> optim.Optimizer:
        decay, on_gpu = self.weight_decay, lr.is_cuda
        return self._kind()(parameters, lr=lr, weight_decay=decay, foreach=on_gpu, fused=False, capturable=on_gpu)

    def _kind(self) -> type[optim.Adam]:
        from torch.optim import Adam, AdamW

        return AdamW if self.decouples_decay else Adam


class AdamwConfig(AdamConfig):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    decouples_decay = True


OPTIMIZERS: dict[str, type[OptimizerConfig]] = {"sgd": SgdConfig, "adam": AdamConfig, "adamw": AdamwConfig}
