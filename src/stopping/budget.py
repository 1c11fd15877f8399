"""`stopping=budget`: the same amount of training for every regime of a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from src.errors import ConfigError
from src.stopping.length import Length, StageSize
from src.stopping.rule import StoppingRule
from src.typed import bounds

NOTES = {
    "updates": "Budgets match in updates: every regime makes as many optimizer steps as sequential does in all.",
    "samples": "Budgets match in samples: every regime sees as many samples as sequential does in all.",
    "marginal": "Budgets match at the margin: training on Dataset 1 alone is sunk cost, and all later training gets as "
    "many updates as the passes over Dataset 2 take.",
}
"""`match` -> the report's sentence."""


@dataclass(frozen=True, kw_only=True)
class BudgetStopping(StoppingRule):
    """A fixed amount of training, given as exactly one of `epochs`, `updates`, `samples` and `updates_per_part`."""

    needs: ClassVar[tuple[str, ...]] = ("stopping.epochs=1",)

    epochs: int | None = field(metadata=bounds(ge=1))
    """Passes of sequential over each of its data sets."""
    updates: int | None = field(metadata=bounds(ge=1))
    """Updates in all, over the stages of a regime."""
    samples: int | None = field(metadata=bounds(ge=1))
    """Samples in all, over the stages of a regime."""
    updates_per_part: int | None = field(default=None, metadata=bounds(ge=1))
    """Updates of every stage of sequential, whatever its size; other regimes divide the total into equal parts."""
    match: Literal["epochs", "updates", "samples", "marginal"]
    """The unit in which every regime gets the same: ``epochs`` (each stage its own passes), ``updates`` or ``samples``
    (the total of sequential, divided over the stages by mixture size, remainder to the last), ``marginal`` (stages on
    Dataset 1 alone are sunk cost; the others share epochs * ceil(n2 / B) updates)."""

    @property
    def given(self) -> dict[str, int]:
        """The amounts that are set."""
        names = ("epochs", "updates", "updates_per_part", "samples")
        return {name: amount for name in names if (amount := getattr(self, name)) is not None}

    @property
    def amount(self) -> int:
        return next(iter(self.given.values()))

    @property
    def epochs_label(self) -> int | str:
        return "-" if self.epochs is None else self.epochs

    @property
    def budgets_match_in(self) -> str:
        return self.match

    @property
    def match_note(self) -> str:
        return NOTES.get(self.match, super().match_note)

    def check(self, dataset_sizes: Sequence[int], *, is_regression: bool) -> None:
        if len(self.given) != 1:
            names = ", ".join(f"stopping.{name}" for name in ("epochs", "updates", "updates_per_part"))
            problem = f"stopping=budget takes exactly one of {names}, stopping.samples (with stopping.match=samples)"
            raise ConfigError("stopping", self.given, problem)
        unit = next(iter(self.given)).removesuffix("_per_part")
        if self.match in ("epochs", "marginal") and unit != "epochs":
            fix = f"is counted in stopping.epochs, not {unit}; give stopping.epochs or stopping.match={unit}"
            raise ConfigError("stopping.match", self.match, fix)
        if unit != "epochs" and self.match != unit:
            raise ConfigError("stopping.match", self.match, f"contradicts stopping.{unit}; set stopping.match={unit}")
        if self.match == "marginal" and dataset_sizes[1] == 0:
            raise ConfigError("stopping.match", "marginal", "needs a Dataset 2 that is not empty")

    def lengths(self, stages: Sequence[StageSize], dataset_sizes: Sequence[int], batch_size: int | str) -> list[Length]:
        if self.match == "epochs":
            return super().lengths(stages, dataset_sizes, batch_size)
        are_sunk = [self.match == "marginal" and stage.first_alone for stage in stages]
        counted = [1 if self.updates_per_part is not None else stage.n_counted for stage in stages]
        weights = [0 if sunk else n * s.factor for s, n, sunk in zip(stages, counted, are_sunk, strict=True)]
        amounts = _divide(self._total(dataset_sizes, batch_size), weights)
        make = Length.of_samples if self.match == "samples" else Length.of_updates
        return [
            Length.of_epochs(s.n_draws, s.batch(batch_size), self.amount * s.factor)
            if sunk
            else make(s.n_draws, s.batch(batch_size), amount)
            for s, amount, sunk in zip(stages, amounts, are_sunk, strict=True)
        ]

    def _total(self, dataset_sizes: Sequence[int], batch_size: int | str) -> int:
        """The training of sequential in the unit that is matched, without Dataset 1's if that is sunk cost."""
        if self.updates_per_part is not None:
            return self.updates_per_part * sum(n > 0 for n in dataset_sizes)
        if self.epochs is None:
            return self.amount
        if self.match == "samples":
            return self.epochs * sum(dataset_sizes)
        passes = [min(n, 1) if batch_size == "full" else -(-n // int(batch_size)) for n in dataset_sizes]
        return self.epochs * sum(passes[1:] if self.match == "marginal" else passes)


def _divide(total: int, weights: Sequence[float]) -> list[int]:
    """`total` in whole parts by weight; the last part with a weight gets the remainder. All 0 without weights."""
    if not any(weights):
        return [0] * len(weights)
    amounts = [int(total * weight // sum(weights)) for weight in weights]
    last = max(k for k, weight in enumerate(weights) if weight)
    amounts[last] += total - sum(amounts)
    return amounts
