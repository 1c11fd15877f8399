"""The work of `seeds=auto`: rounds of further seeds for the cells that are not decided, those closest to a decision
first.

A round follows from the results of the earlier ones alone, so a repeated command repeats the rounds on the results that
it finds, and a finished one finds nothing to run. The verdicts hold at any stop (`src.comparison.betting`): no rule
here can invalidate them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from src.comparison.betting import AnyStop, anytime_equivalence_p, anytime_p, fewest_seeds, log2_wealth
from src.comparison.families import Comparison, Family, by_comparison, declare, pairs_of, read_families
from src.comparison.pairing import RunRecord, grouped, load_records, pair
from src.comparison.statistics import ALPHA, holm
from src.comparison.verdicts import default_metric
from src.config.parse import Seeding
from src.errors import ConfigError
from src.progress import SweepProgress
from src.sweep.engine import Engine
from src.sweep.grid.cells import labels_of
from src.sweep.grid.plan import SweepPlan
from src.sweep.queue.queue import WorkQueue
from src.sweep.work import GridWork, Trials, so_far

FIRST = 4
"""Seeds of every cell in the first round."""
STEP = 0.25
"""Most seeds that a round adds to a cell, as a share of those that it has, or `FIRST`; fewer where fewer can decide
it."""
SHARE = 0.25
"""Share of the undecided cells that a round adds seeds to, or `FIRST` of them."""


@dataclass(frozen=True, slots=True)
class SeedingEvidence:
    """What the first seeds of a comparison say of each question: is there a difference, and is it within the margin?"""

    p: tuple[float, float]
    """The p-values, of which only the smallest so far counts."""
    bits: tuple[float, float]
    """log2 of the present wealth."""
    leader: str = ""
    """The regime that a difference favours."""
    problem: bool = False
    """Whether no seed can decide it any more."""


class SeedingWork(GridWork):
    """The cells of a plan with `seeding.max` seeds each, as far as their results call for them."""

    in_rounds = True

    def __init__(self, plan: SweepPlan, engine: Engine, seeding: Seeding) -> None:
        super().__init__(plan, engine)
        self._all, self._seeding = plan, seeding
        self._alone = False
        self._n_regimes = {key: len(cell.config.regimes) for key, cell in plan.cells.items()}
        self._evidence: dict[tuple[str, int], list[SeedingEvidence]] = {}
        self._complete: dict[str, int] = {}
        self._runs: dict[str, tuple[int, Sequence[RunRecord]]] = {}
        self.decided: dict[Comparison, str] = {}
        self._stuck: set[str] = set()
        self._rule = AnyStop(seeding.margin)
        if self.config.launcher.detached:
            problem = "needs the command to stay, since it queues seeds by the results"
            raise ConfigError("seeds", "auto", f"{problem}; set launcher.wait=true")
        n_first = FIRST * sum(self._n_regimes.values())
        if seeding.runs is not None and seeding.runs < n_first:
            problem = f"is less than the {n_first} runs of the first {FIRST} seeds of every cell; raise it"
            raise ConfigError("seeding.runs", seeding.runs, problem)
        self._advance()

    def declare(self) -> None:
        cells = self._all.cells
        labels = labels_of(cell.config for cell in cells.values())
        seeds = range(self._seeding.max)
        declare(self.folder.root, cells, labels, self.config.baseline, seeds, self._rule)

    def description(self, n_workers: int) -> list[str]:
        n_runs, n_tests = sum(self._n_regimes.values()), max(1, len(self._comparisons()))
        most = n_runs * self._seeding.max if self._seeding.runs is None else self._seeding.runs
        return [
            *super().description(n_workers),
            f"seeds=auto: this round; at most {min(most, n_runs * self._seeding.max):,} runs in all, seeding.max="
            f"{self._seeding.max} a cell; {fewest_seeds(n_tests)} can decide one of {n_tests} comparisons",
        ]

    def fill(self, queue: WorkQueue, *, alone: bool) -> Iterator[int]:
        self._alone = alone
        return super().fill(queue, alone=alone)

    def extend(self, queue: WorkQueue) -> bool:
        latest = queue.latest()
        self._stuck |= {key for key in self._queued if key in latest and latest[key].state.name == "FAIL"}
        self._advance()
        if not any(key not in self._stuck for key in self._plan.missing):
            return False
        for key in self._stuck:
            self._plan.n_missing[key] = 0
        for _ in super().fill(queue, alone=self._alone):
            pass
        return True

    def progress(self, trials: Trials) -> SweepProgress:
        base = super().progress(trials)
        open_cells = self._open_cells()
        n_all, n_done = self._all.n_runs, base.n_done
        n_spared = sum(
            (self._seeding.max - len(cell.config.seeds)) * self._n_regimes[key]
            for key, cell in self._plan.cells.items()
            if key not in open_cells
        )
        return replace(
            base,
            n=n_all,
            n_done=n_done + n_spared,
            counts=[
                f"cells decided {len(self._all.cells) - len(open_cells)}/{len(self._all.cells)}",
                f"runs {n_done}",
                *base.counts[2:],
            ],
            result=so_far(self.decided.values()),
        )

    # ------------------------------------------------------------------------------------------------ rounds

    def _advance(self) -> None:
        """Repeats all rounds on the results that there are, up to the first one that lacks some."""
        families = by_comparison(read_families(self.folder.root))
        for key in self._all.cells:
            self._complete[key] = self._n_complete(key)
        seeds = dict.fromkeys(self._all.cells, min(FIRST, self._seeding.max))
        while all(self._complete[key] >= n or key in self._stuck for key, n in seeds.items()):
            more = self.next_round(seeds, families)
            if not more:
                break
            seeds |= more
        self._plan = self._plan_of(seeds)

    def _n_complete(self, key: str) -> int:
        """Number of first seeds of a cell for which every regime has a result."""
        found = self._all.resolved[key]
        if key in self._complete and key not in self._queued:
            return self._complete[key]
        if not self._all.n_missing[key]:
            return self._seeding.max
        lacking = {seed for _, seed in found.missing_runs()}
        return next((n for n, seed in enumerate(found.config.seeds) if seed in lacking), self._seeding.max)

    def _plan_of(self, seeds: Mapping[str, int]) -> SweepPlan:
        plan = SweepPlan(hashes=self._all.hashes)
        for key, cell in self._all.cells.items():
            config = replace(cell.config, seeds=cell.config.seeds[: seeds[key]])
            plan.cells[key] = dataclasses.replace(cell, config=config)
            found = self._all.resolved[key]
            plan.resolved[key] = replace(found, config=replace(found.config, seeds=config.seeds))
            plan.n_missing[key] = len(plan.resolved[key].missing_runs()) if self._complete[key] < seeds[key] else 0
        return plan

    def _comparisons(self) -> list[Comparison]:
        return [comparison for key in self._all.cells for comparison in self._of(key)]

    def _open_cells(self) -> set[str]:
        """The cells with an undecided comparison."""
        return {comparison[0] for comparison in self._comparisons() if comparison not in self.decided}

    def next_round(self, seeds: Mapping[str, int], families: Mapping[Comparison, Family]) -> dict[str, int]:
        """The new numbers of seeds of the cells that the next round adds some to."""
        found = {
            (key, a, b): evidence
            for key, n in seeds.items()
            for (_, a, b), evidence in zip(self._of(key), self._read(key, n), strict=True)
        }
        self.decided, missing_bits = self._judge_all(found, families)
        distance: dict[str, float] = {}
        fewest: dict[str, int] = {}
        for (key, *_), bits in missing_bits.items():
            n = seeds[key]
            if key in self._stuck or n >= self._seeding.max:
                continue
            for lacking, gained in bits:
                left = lacking / max(gained / n, 1e-3)
                distance[key] = min(distance.get(key, math.inf), left)
                step = max(FIRST, math.ceil(STEP * n))
                fewest[key] = min(fewest.get(key, step), max(1, math.ceil(lacking)))
        n_chosen = max(FIRST, math.ceil(SHARE * len(distance)))
        chosen = sorted(distance, key=distance.__getitem__)[:n_chosen]
        more = {key: min(self._seeding.max, seeds[key] + fewest[key]) for key in chosen}
        return self._within_budget(seeds, more)

    def _within_budget(self, seeds: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
        if self._seeding.runs is None:
            return dict(more)
        left = self._seeding.runs - sum(n * self._n_regimes[key] for key, n in seeds.items())
        granted: dict[str, int] = {}
        for key, n in more.items():
            n = min(n, seeds[key] + left // self._n_regimes[key])
            left -= (n - seeds[key]) * self._n_regimes[key]
            granted |= {key: n} if n > seeds[key] else {}
        return granted

    def _of(self, key: str) -> list[Comparison]:
        labels = labels_of([self._all.cells[key].config])
        return [(key, a, b) for a, b in pairs_of(labels, self.config.baseline)]

    def _judge_all(
        self, found: Mapping[Comparison, SeedingEvidence], families: Mapping[Comparison, Family]
    ) -> tuple[dict[Comparison, str], dict[Comparison, list[tuple[float, float]]]]:
        """The decided comparisons; of the others, for each question, the bits that its wealth lacks and has gained."""
        decided = {key: "inconclusive" for key, evidence in found.items() if evidence.problem}
        lacking: dict[Comparison, list[tuple[float, float]]] = {}
        for known, members in grouped(found, families.get).items():
            n_tests = len(members) if known is None else len(known.comparisons)
            p = np.array([found[key].p for key in members])
            corrected = np.column_stack([holm(column, n_tests=n_tests) for column in p.T])
            n_left = n_tests - (corrected <= ALPHA).sum(axis=0)
            for key, own in zip(members, corrected, strict=True):
                if key not in decided and own[0] <= ALPHA:
                    decided[key] = found[key].leader
                elif key not in decided and own[1] <= ALPHA:
                    decided[key] = "equivalent"
                elif key not in decided:
                    questions = 1 if self._rule.margin is None else 2
                    needed = [math.log2((2, 1)[q] * max(1, n_left[q]) / ALPHA) for q in range(questions)]
                    bits = found[key].bits
                    lacking[key] = [(needed[q] - bits[q], bits[q]) for q in range(questions)]
        return decided, lacking

    def _read(self, key: str, n: int) -> list[SeedingEvidence]:
        """The evidence of the first `n` seeds of a cell, for each of its comparisons."""
        if (key, n) not in self._evidence:
            known, runs = self._runs.get(key, (0, ()))
            if known < n:
                known = self._complete[key]
                runs = load_records(self.folder.root, cells=[key], seeds=range(known)).runs
                self._runs[key] = known, runs
            metric, own = default_metric(runs), [run for run in runs if run.seed < n]
            self._evidence[key, n] = [self._weigh(own, a, b, metric) for _, a, b in self._of(key)]
        return self._evidence[key, n]

    def _weigh(self, runs: Sequence[RunRecord], a: str, b: str, metric: str) -> SeedingEvidence:
        pairs = pair(runs, a, b, metric)
        if pairs.problem is not None or pairs.difference is None:
            return SeedingEvidence((1.0, 1.0), (0.0, 0.0), problem=any(pairs.collapsed))
        x, margin = np.array(pairs.differences), self._rule.margin
        sign = 1 if pairs.difference > 0 else -1
        p = min(1.0, 2 * float(anytime_p(sign * x, alternative="greater")))
        bits = float(log2_wealth(sign * x)[-1])
        if margin is None:
            return SeedingEvidence((p, 1.0), (bits, 0.0), pairs.leader)
        within = float(anytime_equivalence_p(x, margin))
        bits_within = min(float(log2_wealth(side * x, null=-margin)[-1]) for side in (1, -1))
        return SeedingEvidence((p, within), (bits, bits_within), pairs.leader)
