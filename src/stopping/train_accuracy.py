"""`stopping=train_accuracy`: until the accuracy on the training data reaches a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from src.errors import ConfigError
from src.stopping.rule import CappedRule, Measurement
from src.typed import bounds


@dataclass(frozen=True, kw_only=True)
class TrainAccuracy(CappedRule):
    """Stop when the accuracy over the stage's own training data is at least `target` (Ash & Adams 2020: 0.99)."""

    target: float = field(metadata=bounds(gt=0, le=1))
    """The accuracy at which a stage has converged, measured in evaluation mode."""

    @property
    def measurement(self) -> Measurement:
        return Measurement(data="training", quantity="accuracy", every=self.check_every)

    def check(self, dataset_sizes: Sequence[int], *, is_regression: bool) -> None:
        if is_regression:
            problem = "is an accuracy, which a regression does not have; take stopping=convergence"
            raise ConfigError("stopping.target", self.target, problem)

    def has_converged(self, value: float) -> bool:
        return -value >= self.target  # smaller values are better, so an accuracy is negated
