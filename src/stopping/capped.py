"""Rules that end a stage once a value over its own training data is good enough, after `max_epochs` at the latest."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

from src.stopping.rule import StoppingRule, StoppingVerdict
from src.typed import bounds


@dataclass(frozen=True, kw_only=True)
class CappedRule(StoppingRule):
    """A rule with a target and a cap. A subclass says what it measures and which value reaches the target."""

    max_epochs: int = field(metadata=bounds(ge=1))
    """Passes of a stage at most; a stage that needs them all is recorded as not converged."""
    check_every: int = field(metadata=bounds(ge=1))
    """Epochs between two measurements, each of which takes a pass over the stage's data."""

    @property
    def amount(self) -> int:
        return self.max_epochs

    @abstractmethod
    def has_converged(self, value: float) -> bool:
        """Whether a measured value, smaller being better, reaches the target."""

    def after_epoch(self, epoch: int, value: float, best_epoch: int | None) -> StoppingVerdict | None:
        return StoppingVerdict("tolerance", converged=True) if self.has_converged(value) else None

    def at_full_length(self, best_epoch: int | None) -> StoppingVerdict:
        return StoppingVerdict("cap", converged=False)
