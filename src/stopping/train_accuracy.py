"""`stopping=train_accuracy`: until the accuracy on the training data reaches a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from src.errors import ConfigError
from src.stopping.rule import Measurement, StoppingRule, StoppingVerdict
from src.typed import bounds


@dataclass(frozen=True, kw_only=True)
class TrainAccuracy(StoppingRule):
    """Stop when the accuracy over the stage's own training data is at least `target` (Ash & Adams 2020: 0.99)."""

    target: float = field(metadata=bounds(gt=0, le=1))
    """The accuracy at which a stage has converged, measured in evaluation mode."""
    max_epochs: int = field(metadata=bounds(ge=1))
    """Passes of a stage at most; a stage that needs them all is recorded as not converged."""
    check_every: int = field(metadata=bounds(ge=1))
    """Epochs between two measurements, each of which takes a pass over the stage's data."""

    @property
    def amount(self) -> int:
        return self.max_epochs

    @property
    def measurement(self) -> Measurement:
        return Measurement(data="training", quantity="accuracy", every=self.check_every)

    def check(self, dataset_sizes: Sequence[int], *, is_regression: bool) -> None:
        if is_regression:
            problem = "is an accuracy, which a regression does not have; take stopping=convergence"
            raise ConfigError("stopping.target", self.target, problem)

    def after_epoch(self, epoch: int, value: float, best_epoch: int | None) -> StoppingVerdict | None:
        accuracy = -value  # smaller values are better, so an accuracy is negated
        return StoppingVerdict("tolerance", converged=True) if accuracy >= self.target else None

    def at_end(self, best_epoch: int | None) -> StoppingVerdict:
        return StoppingVerdict("cap", converged=False)
