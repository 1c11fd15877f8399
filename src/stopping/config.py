"""Settings of a stopping rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from src.typed import bounds


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochsStopping:
    """Every stage makes `epochs` passes over its own data."""

    name: Literal["epochs"]
    epochs: int = field(metadata=bounds(ge=1))


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetStopping:
    """A fixed amount of training, given as exactly one of `epochs` of sequential, `updates`, `samples` or
    `updates_per_part`.

    `match` says in which unit every regime of the cell gets the same: ``epochs`` (each stage its own passes),
    ``updates`` or ``samples`` (the total of sequential, divided over the stages by mixture size, remainder to the last),
    ``marginal`` (stages on Dataset 1 alone are sunk cost; all else gets epochs * ceil(n2 / B) updates).
    `updates_per_part`: sequential makes so many in every stage, whatever its size; every regime gets the total, divided
    over its stages in equal parts.
    """

    name: Literal["budget"]
    epochs: int | None = field(metadata=bounds(ge=1))
    updates: int | None = field(metadata=bounds(ge=1))
    samples: int | None = field(metadata=bounds(ge=1))
    updates_per_part: int | None = field(default=None, metadata=bounds(ge=1))
    match: Literal["epochs", "updates", "samples", "marginal"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStopping:
    """Stop when the monitored validation figure has not improved for `patience` epochs; the best weights are restored."""

    name: Literal["early_stopping"]
    max_epochs: int = field(metadata=bounds(ge=1))
    patience: int = field(metadata=bounds(ge=1))
    monitor: Literal["loss", "accuracy"]
    monitor_on: str
    """`own` (the validation set of the stage's own mixture), `d1`, `d2`, ... or `union`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvergenceStopping:
    """Stop when the training loss, or the norm of its gradient, over the stage's own data is at most `tolerance`."""

    name: Literal["convergence"]
    quantity: Literal["loss", "gradient"]
    tolerance: float = field(metadata=bounds(gt=0))
    max_epochs: int = field(metadata=bounds(ge=1))
    check_every: int = field(metadata=bounds(ge=1))
    """Epochs between two checks: the figure takes a pass over the stage's data."""


StoppingConfig = EpochsStopping | BudgetStopping | EarlyStopping | ConvergenceStopping
