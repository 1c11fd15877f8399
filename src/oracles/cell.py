"""One cell of the linear lab, trained as every cell is, with its weights at hand: plan, groups, stages, scores.

Only the files are left out: results are kept in memory, since a check asks for thousands of runs that nobody reads again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.cells.resolve import resolve
from src.config import Config, compose
from src.data.stream import Samples, Stream
from src.stopping.convergence import ConvergenceStopping
from src.training.devices import device_of
from src.training.execute import Execution, execute
from src.training.plan import Node, Run, StagePlan, make_plan
from src.training.records import ScoreBook, result_of, score_all
from src.training.result import ResumePoint, StageResult
from src.training.store.store import Store

Floats = NDArray[np.float64]

MOMENTUM_ABOVE = 30.0
"""Condition number of the Hessian from which on descent gets momentum: the same limit in the root of the steps."""
RATE = 0.95
"""Share of the largest stable learning rate that is used."""


class Memory(Store):
    """A stage store that forgets: every stage is trained here and now, by nobody else, and never left half-way."""

    def __init__(self) -> None:
        super().__init__(Path())
        self.kept: dict[str, StageResult] = {}

    def get(self, key: str, *, need_optimizer: bool = False) -> StageResult | None:
        """What was put."""
        found = self.kept.get(key)
        return None if found is None or (need_optimizer and found.optimizer is None) else found

    def put(self, key: str, result: StageResult) -> None:
        """Until the cell is done."""
        self.kept[key] = result

    def resume_point(self, key: str) -> ResumePoint | None:
        """Nothing."""
        del key
        return None

    def put_resume_point(self, key: str, progress: ResumePoint) -> None:
        """Nobody comes back to it."""

    def prefix_lengths(self, line: str) -> list[int]:
        """None."""
        del line
        return []

    def put_prefix(self, line: str, key: str, progress: ResumePoint) -> None:
        """Nobody goes on from it."""

    def locked(self, keys: Iterable[str]) -> AbstractContextManager[list[str]]:
        """All of them."""
        return nullcontext(list(keys))


@dataclass(frozen=True, eq=False)
class Measured:
    """What became of a cell: every run's stages, weights and figures."""

    config: Config
    streams: Mapping[int, Stream]
    plan: StagePlan
    execution: Execution
    book: ScoreBook

    @property
    def seeds(self) -> tuple[int, ...]:
        """In the order of every array here."""
        return self.config.seeds

    def runs(self, regime: str) -> list[Run]:
        """The runs of a regime (by label), seed by seed."""
        by_seed = {run.seed: run for run in self.plan.runs if run.regime.label == regime}
        return [by_seed[seed] for seed in self.seeds]

    def nodes(self, regime: str, stage: int = -1) -> list[Node]:
        """One stage of a regime, seed by seed."""
        return [self.plan.nodes[run.stages[stage]] for run in self.runs(regime)]

    def weights(self, regime: str, stage: int = -1, name: str = "head.weight") -> Floats:
        """Weights after a stage, [seeds, d]; `name` "head.bias" for the bias [seeds, 1]."""
        results = [self.execution.results[node.key] for node in self.nodes(regime, stage)]
        return np.stack([result.weights[name].double().numpy().reshape(-1) for result in results])

    def metric(self, regime: str, name: str) -> Floats:
        """A metric of every run, [seeds], as result.json has it; NaN where it is undefined."""
        found = [self.result(run)["metrics"][name] for run in self.runs(regime)]
        return np.array([np.nan if value is None else value for value in found])

    def result(self, run: Run) -> dict[str, Any]:
        """The `result` part of the run's result.json."""
        return result_of(self.config, self.plan, run, self.execution, self.book)

    @property
    def unconverged(self) -> int:
        """Stages that hit the cap of their stopping rule, or diverged."""
        ledgers = [result.ledger for result in self.execution.results.values()]
        return sum(ledger.converged is False or ledger.diverged for ledger in ledgers)


def measure(config: Config, *, accuracy: float | None = 1e-8, stiffness: float = 1.0) -> Measured:
    """Trains every regime and seed of the cell.

    `accuracy`: error of the weights at which descent may stop; from it and the Hessians of all stages follow learning
    rate, momentum and tolerance. None: all as the configuration says. `stiffness`: by how much a penalty may at most
    multiply the largest curvature.
    """
    factory = resolve(config).streams
    streams = {seed: factory.build(seed) for seed in config.seeds}
    wanted = [(regime, seed) for seed in config.seeds for regime in config.regimes]
    plan = make_plan(config, streams, wanted)
    if accuracy is not None:
        config = tuned(config, [node for node in plan.nodes.values() if node.length.updates], accuracy, stiffness)
        plan = make_plan(config, streams, wanted)
    place = device_of(config.trainer)
    execution = execute(config, plan, Memory(), place)
    if execution.failures:
        line, trace = next(iter(execution.failures.values()))
        raise RuntimeError(f"{line}\n{trace}")
    return Measured(config, streams, plan, execution, score_all(config, plan, execution, place))


def tuned(config: Config, nodes: Sequence[Node], accuracy: float, stiffness: float = 1.0) -> Config:
    """The configuration with the rate (and momentum) at which descent is fastest on these stages, and the tolerance on
    the gradient that keeps every weight within `accuracy`."""
    spectra = [curvatures(node) for node in nodes]
    largest = stiffness * max(float(values.max()) for values in spectra)
    smallest = min(float(values.min()) for values in spectra)
    rate, momentum = RATE * 2 / (largest + smallest), 0.0
    if largest / smallest > MOMENTUM_ABOVE:  # heavy ball (Polyak 1964)
        high, low = np.sqrt(largest), np.sqrt(smallest)
        rate, momentum = RATE * 4 / (high + low) ** 2, ((high - low) / (high + low)) ** 2
    optimizer = dataclasses.replace(config.optimizer, lr=float(rate), momentum=float(momentum))
    given = dataclasses.asdict(config.stopping) | {"quantity": "gradient", "tolerance": max(accuracy * smallest, 1e-14)}
    stopping = ConvergenceStopping(**given)
    return dataclasses.replace(config, optimizer=optimizer, stopping=stopping)


def curvatures(node: Node) -> Floats:
    """Eigenvalues above 0 of the Hessian of a stage's mean squared error, without its penalty."""
    inputs, _ = samples_of(node)
    values = 2 * np.linalg.svd(inputs, compute_uv=False) ** 2 / len(inputs)
    return np.asarray(values[values > 1e-12 * values.max()])


def samples_of(node: Node) -> tuple[Floats, Floats]:
    """Inputs [n, d] and targets [n] of a stage, in the order of ids."""
    parts = [design(part) for part in node.data.parts]
    inputs, targets = np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
    chosen = np.concatenate(node.data.pools)
    return inputs[chosen], targets[chosen]


def design(samples: Samples) -> tuple[Floats, Floats]:
    """Inputs [n, d] and targets [n] of a set of samples."""
    rows = samples.rows
    return samples.bank.x[rows].double().numpy().reshape(len(rows), -1), samples.y.double().numpy().reshape(-1)


def lab(*overrides: str, regimes: str, seeds: int | Sequence[int], study: str = "linear_lab") -> Config:
    """A cell of the linear lab. `regimes`: as on the command line, without brackets."""
    chosen = seeds if isinstance(seeds, int) else "[" + ",".join(map(str, seeds)) + "]"
    return compose([f"study={study}", f"regimes=[{regimes}]", f"seeds={chosen}", "tracking=off", *overrides])
