"""What every stopping rule has in common: its settings, the lengths it gives, and its decision on each model of a
group."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from src.stopping.length import Length, StageSize
from src.typed import bounds

StoppedBy = Literal["length", "patience", "tolerance", "cap", "diverged"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a rule measures on every model after an epoch; smaller values are better (an accuracy is negated)."""

    data: Literal["validation", "training"]
    """The held-out samples, or the stage's own training data (penalty included)."""
    quantity: Literal["loss", "accuracy", "gradient"]
    """Mean loss, accuracy, or the norm of the loss's gradient (training only)."""
    on: str = "own"
    """Validation set: `own` (of the stage's own mixture), `d1`, `d2`, ... or `union`."""
    every: int = 1
    """Epochs between two measurements; the last epoch is always measured."""


@dataclass(frozen=True)
class StoppingVerdict:
    """Why the training of one model ended."""

    stopped_by: StoppedBy
    converged: bool | None = None
    """Whether the model reached its tolerance; None if the rule has none."""
    best_epoch: int | None = None
    """The epoch (from 1) whose weights are restored; None: the weights stay as they are."""


@dataclass(frozen=True, kw_only=True)
class StoppingRule(ABC):
    """When a stage ends. A subclass is the settings of one rule (`stopping=NAME`) and its behaviour.

    A rule has no memory: what it may know after an epoch are the epoch, the model's value, and the best epoch so far. A
    resumed stage therefore ends like an uninterrupted one.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Overrides without which `stopping=NAME` does not compose."""
    keeps_best: ClassVar[bool] = False
    """Whether the weights of each model's best epoch are kept, so that a verdict can restore them."""

    name: str
    """The rule's key in the catalog."""

    @property
    @abstractmethod
    def amount(self) -> int:
        """The longest training, in the rule's own unit: sorts cells, short ones first."""

    @property
    def epochs_label(self) -> int | str:
        """The value of the axis `epochs`."""
        return self.amount

    @property
    def measurement(self) -> Measurement | None:
        """What the rule reads after an epoch; None: nothing, every stage trains for its whole length."""
        return None

    @property
    def is_fixed_length(self) -> bool:
        """Whether the lengths alone decide when stages end."""
        return self.measurement is None

    @property
    def budgets_match_in(self) -> str:
        """The unit in which the budgets of a cell's regimes match, or the rule's name if they do not."""
        return "epochs" if self.is_fixed_length else self.name

    @property
    def match_note(self) -> str:
        """A sentence for the report: how budgets match."""
        if self.is_fixed_length:
            return (
                "Budgets match in epochs: every stage makes its own passes over its own data, so sequential and "
                "combined see equally many samples in all."
            )
        return f"stopping={self.name} matches nothing: the columns below show how long each stage trained."

    def check(self, dataset_sizes: Sequence[int], *, is_regression: bool) -> None:
        """Raise ConfigError if the settings contradict each other or the data."""

    def lengths(self, stages: Sequence[StageSize], dataset_sizes: Sequence[int], batch_size: int | str) -> list[Length]:
        """The most that each stage of one regime trains: by default `amount` passes over its own data.

        `dataset_sizes`: of the whole stream. They fix the training of sequential, to which budgets are matched.
        """
        factors = [stage.factor if self.is_fixed_length else stage.factor > 0 for stage in stages]
        return [s.passes(batch_size, self.amount * factor) for s, factor in zip(stages, factors, strict=True)]

    def after_epoch(self, epoch: int, value: float, best_epoch: int | None) -> StoppingVerdict | None:
        """The verdict on one model after a measured `epoch` (from 1), or None if it continues.

        `value`: its measured value. `best_epoch`: the epoch of its smallest value so far, if the rule `keeps_best`.
        """
        raise NotImplementedError(f"{type(self).__name__} measures a value and must decide on it")

    def at_full_length(self, best_epoch: int | None) -> StoppingVerdict:
        """The verdict on a model that trained for its whole length."""
        return StoppingVerdict("length" if self.is_fixed_length else "cap", best_epoch=best_epoch)


@dataclass(frozen=True, kw_only=True)
class CappedRule(StoppingRule):
    """Ends a stage once a value over its own training data is good enough, after `max_epochs` at the latest.

    A subclass says what it measures and which value reaches the target.
    """

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


class Best(NamedTuple):
    """A model's best epoch (from 1) so far: its measured value (smaller is better) and its weights by name."""

    value: float
    epoch: int
    weights: Mapping[str, Any]


@dataclass
class GroupStopping:
    """Decides after every epoch which models of a group stop."""

    rule: StoppingRule
    n_epochs: int
    """Epochs of the whole stage."""
    measure: Callable[[], Sequence[float]]
    """Measures the value of every model; called only after epochs that the rule measures."""
    weights: Callable[[], Sequence[Mapping[str, Any]]]
    """Copies the weights of every model; called only where the rule keeps the best."""
    best: dict[int, Best] = field(default_factory=dict)
    """Model -> its best epoch, where the rule keeps it."""

    def after_epoch(self, epoch: int, running: Sequence[int]) -> dict[int, StoppingVerdict]:
        """The models among `running` that stop after `epoch` (from 1)."""
        measurement = self.rule.measurement
        if measurement is None or (epoch % measurement.every and epoch < self.n_epochs):
            return {}
        values = [math.inf if math.isnan(value) else value for value in self.measure()]  # undefined is never the best
        if self.rule.keeps_best:
            improved = [m for m in running if m not in self.best or values[m] < self.best[m].value]
            weights = self.weights() if improved else []
            self.best |= {m: Best(values[m], epoch, weights[m]) for m in improved}
        verdicts = {m: self.rule.after_epoch(epoch, values[m], self._best_epoch(m)) for m in running}
        return {m: verdict for m, verdict in verdicts.items() if verdict is not None}

    def at_full_length(self, model: int) -> StoppingVerdict:
        """The verdict on a model that trained for its whole length."""
        return self.rule.at_full_length(self._best_epoch(model))

    def restored(self, model: int, verdict: StoppingVerdict) -> Mapping[str, Any] | None:
        """The weights that the verdict restores; None: the model keeps its own."""
        return None if verdict.best_epoch is None else self.best[model].weights

    def _best_epoch(self, model: int) -> int | None:
        return self.best[model].epoch if model in self.best else None
