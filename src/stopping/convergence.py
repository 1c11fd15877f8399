"""`stopping=convergence`: until the training loss, or its gradient, is small."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from src.stopping.rule import CappedRule, Measurement
from src.typed import bounds


@dataclass(frozen=True, kw_only=True)
class ConvergenceStopping(CappedRule):
    """Stop when the training loss, or the norm of its gradient, over the stage's own data is at most `tolerance`."""

    quantity: Literal["loss", "gradient"]
    """Mean training loss, penalty included, or the norm of its gradient."""
    tolerance: float = field(metadata=bounds(gt=0))
    """The value at which a stage has converged."""

    @property
    def measurement(self) -> Measurement:
        return Measurement(data="training", quantity=self.quantity, every=self.check_every)

    def has_converged(self, value: float) -> bool:
        return value <= self.tolerance
