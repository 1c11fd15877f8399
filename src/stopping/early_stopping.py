"""`stopping=early_stopping`: until the validation value stops improving; then the best weights are restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from src.errors import ConfigError, did_you_mean
from src.stopping.rule import Measurement, StoppingRule, StoppingVerdict
from src.typed import bounds


@dataclass(frozen=True, kw_only=True)
class EarlyStopping(StoppingRule):
    """Stop when the monitored validation value has not improved for `patience` epochs; restore the best weights."""

    keeps_best: ClassVar[bool] = True

    max_epochs: int = field(metadata=bounds(ge=1))
    """Passes of a stage at most."""
    patience: int = field(metadata=bounds(ge=1))
    """Epochs without improvement; an equal value is no improvement."""
    monitor: Literal["loss", "accuracy"]
    """The validation metric."""
    monitor_on: str
    """`own` (the validation set of the stage's own mixture), `d1`, `d2`, ... or `union`."""

    @property
    def amount(self) -> int:
        return self.max_epochs

    @property
    def measurement(self) -> Measurement:
        return Measurement(data="validation", quantity=self.monitor, on=self.monitor_on)

    def check(self, dataset_sizes: Sequence[int], *, is_regression: bool) -> None:
        if is_regression and self.monitor == "accuracy":
            problem = "is undefined for a regression; set stopping.monitor=loss"
            raise ConfigError("stopping.monitor", "accuracy", problem)
        sets = ["own", "union"] + [f"d{k}" for k, n in enumerate(dataset_sizes, start=1) if n]
        if self.monitor_on not in sets:
            raise ConfigError("stopping.monitor_on", self.monitor_on, did_you_mean(self.monitor_on, sets))

    def after_epoch(self, epoch: int, value: float, best_epoch: int | None) -> StoppingVerdict | None:
        assert best_epoch is not None
        return StoppingVerdict("patience", best_epoch=best_epoch) if epoch - best_epoch >= self.patience else None
