"""`stopping=convergence`: until the training loss, or its gradient, is small."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from src.stopping.rule import Measurement, StoppingRule, StoppingVerdict
from src.typed import bounds


@dataclass(frozen=True, kw_only=True)
class ConvergenceStopping(StoppingRule):
    """Stop when the training loss, or the norm of its gradient, over the stage's own data is at most `tolerance`."""

    quantity: Literal["loss", "gradient"]
    """Mean training loss, penalty included, or the norm of its gradient."""
    tolerance: float = field(metadata=bounds(gt=0))
    """The value at which a stage has converged."""
    max_epochs: int = field(metadata=bounds(ge=1))
    """Passes of a stage at most; a stage that needs them all is recorded as not converged."""
    check_every: int = field(metadata=bounds(ge=1))
    """Epochs between two measurements, each of which takes a pass over the stage's data."""

    @property
    def amount(self) -> int:
        return self.max_epochs

    @property
    def measurement(self) -> Measurement:
        return Measurement(data="training", quantity=self.quantity, every=self.check_every)

    def after_epoch(self, epoch: int, value: float, best_epoch: int | None) -> StoppingVerdict | None:
        return StoppingVerdict("tolerance", converged=True) if value <= self.tolerance else None

    def at_end(self, best_epoch: int | None) -> StoppingVerdict:
        return StoppingVerdict("cap", converged=False)
