"""What training a candidate costs: updates, samples, operations, seconds and money, from its planned stages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from src.advise.question import Budget
from src.cells.resolve import ResolvedCell
from src.data.stream import Stream
from src.regimes.catalog import RegimeConfig
from src.training.plan import make_plan

FULL_SEEDS = 10
"""Seeds of a comparison in full: so many give a verdict on each of the default candidates (docs/STATISTICS.md)."""


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """Planned training of one stage. `first`: whether it makes the model of Dataset 1, which a checkpoint pays."""

    updates: int
    samples: int
    epochs: int
    first: bool

    def at(self, fraction: float) -> StageCost:
        """About the same stage on a fraction of the data: an epoch has at least one update."""
        updates = max(round(self.updates * fraction), self.epochs)
        return StageCost(updates=updates, samples=round(self.samples * fraction), epochs=self.epochs, first=self.first)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of this machine and network: seconds an update, floating-point operations a sample, price of an hour."""

    seconds: float
    flops: float
    hour: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Training of one model."""

    updates: float
    samples: float
    flops: float
    seconds: float
    money: float

    @classmethod
    def of(cls, stages: Iterable[StageCost], rates: Rates, *, paid: bool, scale: float = 1.0) -> Cost:
        """`paid`: whether the model of Dataset 1 exists; `scale`: share of the planned length that is trained."""
        due = [stage for stage in stages if not (paid and stage.first)]
        updates, samples = (scale * sum(getattr(s, name) for s in due) for name in ("updates", "samples"))
        seconds = updates * rates.seconds
        return cls(
            updates=updates,
            samples=samples,
            flops=samples * rates.flops,
            seconds=seconds,
            money=seconds / 3600 * rates.hour,
        )


@dataclass
class Account:
    """What the advice has spent of its budget, as a share of training all candidates in full and in seconds."""

    budget: Budget
    share: float = 0.0
    seconds: float = 0.0

    def allows(self, share: float, seconds: float, part: float = 1.0) -> bool:
        """Whether that much more is within this part of the budget; of two limits the larger counts."""
        limits = ((self.budget.share, self.share + share), (self.budget.seconds, self.seconds + seconds))
        return any(limit is not None and spent <= part * limit for limit, spent in limits)

    def spend(self, share: float, seconds: float) -> None:
        self.share += share
        self.seconds += seconds


def planned(cell: ResolvedCell, regime: RegimeConfig, stream: Stream) -> list[StageCost]:
    """The stages of one run of the cell, at most as long as its stopping rule allows."""
    plan = make_plan(cell.config, {stream.seed: stream}, [(regime, stream.seed)])
    return [
        StageCost(
            updates=node.length.updates,
            samples=node.length.samples,
            epochs=node.length.n_epochs,
            first=node.stage.mixture.parts == (0,) and node.stage.start.kind in ("fresh", "file"),
        )
        for node in (plan.nodes[key] for key in plan.runs[0].stages)
    ]
