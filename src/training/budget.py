"""How long each stage of a regime trains: the stopping rule's amount, divided so that regimes can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from src.stopping.config import BudgetStopping, ConvergenceStopping, EarlyStopping, EpochsStopping, StoppingConfig


@dataclass(frozen=True)
class Length:
    """The most a stage trains: `updates` optimizer steps that see `samples` samples, in epochs of `n_draws` draws.

    Every epoch has ceil(n_draws / batch_size) updates, its last batch being what is left; only the stage's very last
    batch may be cut further so that `samples` comes out.
    """

    n_draws: int
    batch_size: int
    updates: int
    samples: int

    @property
    def updates_per_epoch(self) -> int:
        """Updates in a whole epoch."""
        return -(-self.n_draws // self.batch_size)

    @property
    def n_epochs(self) -> int:
        """Epochs begun."""
        return -(-self.updates // self.updates_per_epoch) if self.updates else 0

    def curve_every(self, curve_points: int) -> int:
        """Epochs from one regular point of the stage's curves to the next, where there are to be at most `curve_points`."""
        return max(1, -(-self.n_epochs // curve_points))

    def regular_points(self, curve_points: int, n_done: int) -> list[int]:
        """The updates of the regular points up to `n_done` updates."""
        step = self.curve_every(curve_points) * self.updates_per_epoch
        return list(range(step, n_done + 1, step))

    @property
    def whole_epochs(self) -> bool:
        """Whether it ends where an epoch ends."""
        return self.samples == self.n_epochs * self.n_draws and self.updates == self.n_epochs * self.updates_per_epoch

    @property
    def all_at_once(self) -> bool:
        """Whether every update sees as many samples as an epoch draws."""
        return self.batch_size >= self.n_draws and self.samples == self.updates * self.n_draws

    @classmethod
    def of_epochs(cls, n_draws: int, batch_size: int, epochs: float) -> Length:
        """`epochs` passes; a fraction ends inside a pass, on a whole update."""
        per_epoch = -(-n_draws // batch_size)
        return cls.of_updates(n_draws, batch_size, round(epochs * per_epoch))

    @classmethod
    def of_updates(cls, n_draws: int, batch_size: int, updates: int) -> Length:
        """A number of updates, whatever samples they see."""
        per_epoch = -(-n_draws // batch_size)
        whole, rest = divmod(updates, per_epoch)
        return cls(n_draws, batch_size, updates, whole * n_draws + rest * batch_size)

    @classmethod
    def of_samples(cls, n_draws: int, batch_size: int, samples: int) -> Length:
        """A number of samples; the last batch is cut to it."""
        whole, rest = divmod(samples, n_draws)
        return cls(n_draws, batch_size, whole * -(-n_draws // batch_size) + -(-rest // batch_size), samples)


@dataclass(frozen=True)
class StageSize:
    """What the budget must know of a stage. `n_draws`: samples drawn in one epoch; `n_counted`: the size by which its
    share of the budget is counted; `first_alone`: it trains on Dataset 1 alone; `factor`: on the budget; `repeats`: how many
    times an epoch draws each sample in a row."""

    n_draws: int
    n_counted: int
    first_alone: bool
    factor: float = 1.0
    repeats: int = 1


def stage_lengths(
    stopping: StoppingConfig, stages: Sequence[StageSize], dataset_sizes: Sequence[int], batch_size: int | str
) -> list[Length]:
    """The length of every stage of one regime.

    `dataset_sizes`: of the whole stream; they fix what sequential does, which is the total that budgets are matched to.
    """
    batches = [stage.n_draws // stage.repeats if batch_size == "full" else int(batch_size) for stage in stages]
    lengths: list[Length] = []
    if isinstance(stopping, (EarlyStopping, ConvergenceStopping)):
        for stage, batch in zip(stages, batches, strict=True):
            lengths.append(_of_passes(stage, batch, stopping.max_epochs * (stage.factor > 0)))
        return lengths
    if isinstance(stopping, EpochsStopping) or stopping.match == "epochs":
        assert stopping.epochs is not None
        for stage, batch in zip(stages, batches, strict=True):
            lengths.append(_of_passes(stage, batch, stopping.epochs * stage.factor))
        return lengths
    assert isinstance(stopping, BudgetStopping)
    if stopping.match == "marginal":
        return _marginal(stopping, stages, dataset_sizes, batches, batch_size)
    total = _total(stopping, dataset_sizes, batch_size)
    in_equal_parts = stopping.updates_per_part is not None
    amounts = _divide(total, [(1 if in_equal_parts else stage.n_counted) * stage.factor for stage in stages])
    make = Length.of_samples if stopping.match == "samples" else Length.of_updates
    return [make(s.n_draws, batch, n) for s, batch, n in zip(stages, batches, amounts, strict=True)]


def _of_passes(stage: StageSize, batch_size: int, n_passes: float) -> Length:
    """So many passes over the counted data: a replay stage makes the updates of Dataset 2 alone, and of samples drawn ten
    times in a row one epoch is ten passes."""
    if stage.repeats > 1:
        return Length.of_samples(stage.n_draws, batch_size, round(n_passes * stage.n_counted))
    return Length.of_updates(stage.n_draws, batch_size, round(n_passes * -(-stage.n_counted // batch_size)))


def _updates_of_pass(n: int, batch_size: int | str) -> int:
    return min(n, 1) if batch_size == "full" else -(-n // int(batch_size))


def _total(stopping: BudgetStopping, dataset_sizes: Sequence[int], batch_size: int | str) -> int:
    """What sequential gets in all, in the unit that is matched."""
    if stopping.updates is not None:
        return stopping.updates
    if stopping.samples is not None:
        return stopping.samples
    if stopping.updates_per_part is not None:
        return stopping.updates_per_part * sum(n > 0 for n in dataset_sizes)
    assert stopping.epochs is not None
    if stopping.match == "samples":
        return stopping.epochs * sum(dataset_sizes)
    return stopping.epochs * sum(_updates_of_pass(n, batch_size) for n in dataset_sizes)


def _divide(total: int, weights: Sequence[float]) -> list[int]:
    """`total` in whole parts by weight, the remainder to the last that has any; nothing where nothing has."""
    if not any(weights):
        return [0] * len(weights)
    amounts = [int(total * weight // sum(weights)) for weight in weights]
    last = max(k for k, weight in enumerate(weights) if weight)
    amounts[last] += total - sum(amounts)
    return amounts


def _marginal(
    stopping: BudgetStopping,
    stages: Sequence[StageSize],
    dataset_sizes: Sequence[int],
    batches: Sequence[int],
    batch_size: int | str,
) -> list[Length]:
    """Stages on Dataset 1 alone are sunk cost and make their own passes; the others share the updates of Dataset 2..."""
    assert stopping.epochs is not None
    others = [k for k, stage in enumerate(stages) if not stage.first_alone]
    shared = stopping.epochs * sum(_updates_of_pass(n, batch_size) for n in dataset_sizes[1:])
    amounts = dict(zip(others, _divide(shared, [stages[k].n_counted * stages[k].factor for k in others]), strict=True))
    lengths = []
    for k, (stage, batch) in enumerate(zip(stages, batches, strict=True)):
        if k in amounts:
            lengths.append(Length.of_updates(stage.n_draws, batch, amounts[k]))
        else:
            lengths.append(Length.of_epochs(stage.n_draws, batch, stopping.epochs * stage.factor))
    return lengths
