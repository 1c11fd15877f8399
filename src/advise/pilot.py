"""The pilot: the candidates on nested subsets of the data, as ordinary cells of a sweep, which resume and share
stages."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from src.advise.costs import FULL_SEEDS, Account, Cost, Rates, StageCost, planned
from src.advise.question import Question
from src.cells.resolve import ResolvedCell
from src.comparison.pairing import RunRecord, grouped, load_records
from src.config import Config
from src.config.tune import OFF, EqualTuning, TuneConfig
from src.data.stream import Stream
from src.errors import ConfigError
from src.evaluation.flops import training_flops
from src.progress import duration
from src.regimes.catalog import RegimeConfig
from src.sweep import laboratory
from src.sweep.command import run_plan
from src.sweep.grid.cells import Cell
from src.sweep.grid.plan import plan_sweep

PER_CLASS = 2
LEAST = 8
"""A subset has at least so many samples of each class of its data set, and in all."""
RUNGS = 3
TUNED_RUNG = -2
"""Sizes for all candidates, each twice the one before; settings are tuned at the second largest."""
FIRST_PART = 0.7
"""Part of the budget for these; the rest is for larger sizes of those that may be best."""
THRIFTY_STEP = math.sqrt(2)
"""Ratio of the sizes where the budget does not allow the smallest ladder of doubled sizes."""


class CannotSay(Exception):
    """Why no advice is possible; the message has no full stop."""


@dataclass(frozen=True)
class Ladder:
    """The pilot's sizes as fractions of the full data, ascending, the one at which candidates are tuned, and how."""

    fractions: tuple[float, ...]
    tuned: float
    tune: TuneConfig


@dataclass(eq=False)
class Pilot:
    """The cells of the pilot, their results and what they cost.

    Attributes:
        asked: The configuration as the user gave it.
        full: The cell at full size, which is never run unless the ladder reaches it.
        measured: The runs by size and candidate: (|D1| + |D2|, candidate number) -> runs, one a seed.
        chosen: The candidates with the settings that tuning chose.
        failures: One line for each run that failed or diverged.
    """

    question: Question
    asked: Config
    full: ResolvedCell
    stream: Stream
    n_workers: int
    measured: dict[tuple[int, int], list[RunRecord]] = field(default_factory=dict)
    chosen: tuple[RegimeConfig, ...] = ()
    failures: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.full.config.split.dataset_sizes()

    @property
    def floors(self) -> tuple[int, ...]:
        """The fewest samples of each data set that a subset may have."""
        counts = self.stream.class_counts
        present = [sum(n > 0 for n in own) for own in counts]
        return tuple(min(n, max(LEAST, PER_CLASS * k)) for n, k in zip(self.sizes, present, strict=True))

    def sizes_at(self, fraction: float) -> tuple[int, ...]:
        """A subset of both data sets in their ratio, unless one would be too small."""
        return tuple(max(round(n * fraction), low) for n, low in zip(self.sizes, self.floors, strict=True))

    def share_at(self, fraction: float) -> float:
        """The samples of that subset as a share of all: more than the fraction where a data set would be too small."""
        return sum(self.sizes_at(fraction)) / sum(self.sizes)

    def is_feasible(self, fraction: float) -> bool:
        """Whether at most one data set, and less than half of all, is more than its fraction because of its classes."""
        exact = sum(self.sizes) * fraction
        return exact >= sum(self.floors) and sum(self.sizes_at(fraction)) <= 1.25 * exact

    def config_at(self, sizes: tuple[int, ...], **changes: object) -> Config:
        """The cell's configuration on a part of the data."""
        split = dataclasses.replace(self.full.config.split, size=None, ratio=None, sizes=sizes)
        return dataclasses.replace(self.full.config, split=split, baseline=None, **changes)  # type: ignore[arg-type]

    def smallest(self) -> float:
        """The smallest feasible fraction, at least 1/1024. Raises CannotSay."""
        found = [f for k in range(21) if self.is_feasible(f := 2 ** (-k / 2))]
        if not found:
            raise CannotSay(
                f"Dataset 1 has {self.sizes[0]} samples for training and Dataset 2 {self.sizes[1]}; at least "
                f"{self.floors[0]} and {self.floors[1]} are needed, {PER_CLASS} of each class"
            )
        return min(found)

    def run(self, configs: Sequence[Config]) -> list[ResolvedCell]:
        """Runs what the cells lack; returns them."""
        plan = plan_sweep([Cell(config) for config in configs], laboratory)
        self.failures += run_plan(plan, laboratory)
        return [plan.resolved[cell_hash] for cell_hash in plan.hashes]

    @functools.cached_property
    def stages(self) -> list[list[StageCost]]:
        """The planned stages of each candidate at full size."""
        return [planned(self.full, regime, self.stream) for regime in self.full.config.regimes]

    @functools.cached_property
    def rates(self) -> Rates:
        """Measured by runs of the first candidate alone, on a small part of the data; a process's first is slow.

        Raises CannotSay.
        """
        trainer = dataclasses.replace(self.full.config.trainer, replicas=1)
        fraction = max(self.smallest(), 1 / 16)
        regimes, seeds = self.full.config.regimes[:1], self.full.config.seeds[:2]
        sizes = self.sizes_at(fraction)
        (cell,) = self.run([self.config_at(sizes, tune=OFF, trainer=trainer, regimes=regimes, seeds=seeds)])
        found = self._runs(cell, seeds).get(regimes[0].label, [])  # the cell may have others of the ladder's
        runs = [run for run in found if run.result["cost"]["updates"]]
        if not runs:
            raise CannotSay(f"the first training failed: {'; '.join(self.failures) or 'it has no updates'}")
        seconds = min(float(run.provenance["seconds"]) / float(run.result["cost"]["updates"]) for run in runs)
        flops = training_flops(self.full.config.arch, self.stream.input_shape, self.stream.n_outputs)
        return Rates(seconds=seconds, flops=float(flops), hour=self.question.price.hour)

    @functools.cached_property
    def account(self) -> Account:
        """What the pilot may spend, and has spent."""
        return Account(budget=self.question.allowance())

    def price(self, candidates: Sequence[int], fraction: float, n_seeds: int) -> tuple[float, float]:
        """Share and seconds that runs of these candidates on a fraction of the data take of the account."""
        run = [stage.at(fraction) for k in candidates for stage in self.stages[k]]
        in_full = FULL_SEEDS * sum(stage.samples for own in self.stages for stage in own)
        seconds = n_seeds * sum(stage.updates for stage in run) * self.rates.seconds / self.n_workers
        return n_seeds * sum(stage.samples for stage in run) / in_full, seconds

    def cost(self, candidate: int, *, paid: bool) -> Cost:
        """Of training a candidate once at full size, for as much of its length as the largest subset used."""
        return Cost.of(self.stages[candidate], self.rates, paid=paid, scale=self._length_used(candidate))

    def _length_used(self, candidate: int) -> float:
        """Share of the planned length that runs on the largest subset used: 1 unless a rule stopped them earlier."""
        if self.full.config.stopping.is_fixed_length:
            return 1.0
        size = max(size for size, number in self.measured if number == candidate)
        used = float(np.mean([run.result["cost"]["samples"] for run in self.measured[size, candidate]]))
        return min(1.0, used / (sum(stage.samples for stage in self.stages[candidate]) * size / sum(self.sizes)))

    def climb(self, ladder: Ladder) -> None:
        """Tunes the candidates at one size, and trains them at all sizes with what was chosen."""
        config, tuned = self.full.config, ladder.tune
        self.chosen = config.regimes
        if tuned != OFF:
            (cell,) = self.run([self.config_at(self.sizes_at(ladder.tuned), tune=tuned)])
            self._keep(cell, config.regimes)
            self.chosen = tuple(dataclasses.replace(regime, named="") for regime in cell.regimes_as_trained)
        others = [self.sizes_at(f) for f in ladder.fractions if tuned == OFF or f != ladder.tuned]
        for cell in self.run([self.config_at(sizes, tune=OFF, regimes=self.chosen) for sizes in others]):
            self._keep(cell, self.chosen)

    def extend(self, fraction: float, candidates: Sequence[int], seeds: Sequence[int]) -> None:
        """Trains some candidates at a further size, or on further seeds."""
        regimes, sizes = tuple(self.chosen[k] for k in candidates), self.sizes_at(fraction)
        (cell,) = self.run([self.config_at(sizes, tune=OFF, regimes=regimes, seeds=tuple(seeds))])
        self._keep(cell, self.chosen)

    def vary(
        self, fraction: float, batches: Sequence[int], candidates: Sequence[int]
    ) -> list[dict[int, list[RunRecord]]]:
        """The runs of some candidates, by number, on a fraction of the data, for each size of Dataset 2."""
        regimes, first = tuple(self.chosen[k] for k in candidates), self.sizes_at(fraction)[0]
        sizes = [(first, round(fraction * batch)) for batch in batches]
        found = []
        for cell in self.run([self.config_at(own, tune=OFF, regimes=regimes) for own in sizes]):
            runs = self._runs(cell, self.full.config.seeds)
            found.append({k: runs.get(self.chosen[k].label, []) for k in candidates})
        return found

    def _keep(self, cell: ResolvedCell, regimes: Sequence[RegimeConfig]) -> None:
        size, runs = sum(cell.config.split.dataset_sizes()), self._runs(cell, cell.config.seeds)
        for number, regime in enumerate(regimes):
            if regime.label in runs:
                self.measured[size, number] = runs[regime.label]

    @staticmethod
    def _runs(cell: ResolvedCell, seeds: Sequence[int]) -> dict[str, list[RunRecord]]:
        """The runs of each regime in the order of their seeds."""
        runs = load_records(cell.sweep_dir, cells=[cell.hash], seeds=seeds).runs
        return grouped(sorted(runs, key=lambda run: run.seed), lambda run: run.regime)


def choose_ladder(pilot: Pilot) -> Ladder:
    """The ladder with the largest sizes that its part of the budget allows, which the account then has spent;
    a thrifty one for few data in a small budget.

    Raises CannotSay, and ConfigError for too small a budget.
    """
    account, everyone, n_seeds = pilot.account, range(len(pilot.stages)), len(pilot.full.config.seeds)
    budget, ladder, share, seconds = account.budget, None, 0.0, 0.0
    doubled = list(_doubled(pilot))
    parts = [(one, 1.0 if one.fractions[-1] == 1 else FIRST_PART) for one in doubled]
    for ladder, part in (*parts, *((one, 1.0) for one in (*doubled[-1:], *_thrifty(pilot)))):
        prices = [
            pilot.price(everyone, pilot.share_at(f), n_seeds + ladder.tune.n_runs * (f == ladder.tuned))
            for f in ladder.fractions
        ]
        share, seconds = (sum(column) for column in zip(*prices, strict=True))
        if account.allows(share, seconds, part):
            break
    if ladder is None:
        raise CannotSay(
            f"{pilot.sizes[0]} samples of Dataset 1 and {pilot.sizes[1]} of Dataset 2 are too few for learning curves, "
            f"which need three sizes of at least {pilot.floors[0]} and {pilot.floors[1]}"
        )
    is_auto = budget.seconds is not None and budget.share is not None  # then the smallest that there is
    if not is_auto and not account.allows(share, seconds):
        given = f"{budget.seconds:g}s" if budget.seconds is not None else f"{100 * (budget.share or 0):g}%"
        problem = f"is less than the smallest pilot needs, about {duration(seconds)} or {100 * share:.0f}%; raise it"
        raise ConfigError("budget", given, problem)
    account.spend(share, seconds)
    return ladder


def _doubled(pilot: Pilot) -> Iterator[Ladder]:
    """The ladders of doubled sizes, the largest first. The full size itself is measured, and needs no curve."""
    tune = pilot.full.config.tune
    tuned = next((f for f in (0.25, 0.5, 1.0) if pilot.is_feasible(f)), None)
    if tuned is not None and pilot.is_feasible(1.0):
        yield Ladder(tuple(sorted({tuned, 1.0})), tuned, tune)
    for k in range(1, 21):
        fractions = [2 ** (-k / 2 - j) for j in range(RUNGS)][::-1]
        if all(map(pilot.is_feasible, fractions)):
            yield Ladder(tuple(fractions), fractions[TUNED_RUNG], tune)


def _thrifty(pilot: Pilot) -> Iterator[Ladder]:
    """Ladders for a budget that allows no doubled sizes, the dearest first: from the fewest samples on, tuned there on
    one seed, with ever fewer trials."""
    start, tune = sum(pilot.floors) / sum(pilot.sizes), pilot.full.config.tune
    least = next((f for k in range(9) if pilot.is_feasible(f := start * 2 ** (k / 8))), 1.0)
    fractions = tuple(least * THRIFTY_STEP**j for j in range(RUNGS))
    if fractions[-1] >= 1:
        return
    tunes: list[TuneConfig] = [tune]
    if isinstance(tune, EqualTuning):
        n_trials = [tune.trials >> k for k in range(tune.trials.bit_length() - 1)]
        tunes = [dataclasses.replace(tune, trials=n, seeds=1) for n in n_trials]
    for own in tunes:
        yield Ladder(fractions, least, own)
