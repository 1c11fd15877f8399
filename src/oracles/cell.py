"""Trains one cell of the linear lab as every cell is trained, except that results stay in memory, with their
weights."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.cells.resolve import resolve
from src.comparison.statistics import Floats
from src.config import Config, compose
from src.data.stream import Samples, Stream
from src.stopping.convergence import ConvergenceStopping
from src.training.devices import device_of
from src.training.execute import Execution, execute
from src.training.plan import Node, Run, StagePlan, make_plan
from src.training.result import ResumePoint, StageResult
from src.training.run_files import StageScores, result_of, score_all
from src.training.store.store import Store

MOMENTUM_ABOVE = 30.0
"""Condition number of the Hessian from which on descent gets momentum: the same limit in the root of the steps."""
RATE = 0.95
"""Share of the largest stable learning rate that is used."""


class Memory(Store):
    """A stage store in memory, for one cell: it keeps results and no resume points; `root` holds its locks alone."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._results: dict[str, StageResult] = {}

    def get(self, key: str, *, need_optimizer: bool = False) -> StageResult | None:
        found = self._results.get(key)
        return None if found is None or (need_optimizer and found.optimizer is None) else found

    def put(self, key: str, result: StageResult) -> None:
        self._results[key] = result

    def put_resume_point(self, key: str, point: ResumePoint) -> None:
        pass

    def put_prefix(self, prefix_key: str, key: str, point: ResumePoint) -> None:
        pass


@dataclass(frozen=True, eq=False)
class MeasuredCell:
    """A trained cell. Its arrays have one row a seed, in the order of `seeds`."""

    config: Config
    streams: Mapping[int, Stream]
    plan: StagePlan
    execution: Execution
    scores: StageScores

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.config.seeds

    @property
    def parts(self) -> list[list[tuple[Floats, Floats]]]:
        """Inputs [n, d] and targets [n] of every data set of every seed."""
        return [parts_of(self.streams[seed]) for seed in self.seeds]

    def runs(self, regime: str) -> list[Run]:
        """The runs of a regime (by label)."""
        by_seed = {run.seed: run for run in self.plan.runs if run.regime.label == regime}
        return [by_seed[seed] for seed in self.seeds]

    def nodes(self, regime: str, stage: int = -1) -> list[Node]:
        """One stage of a regime."""
        return [self.plan.nodes[run.stages[stage]] for run in self.runs(regime)]

    def weights(self, regime: str, stage: int = -1, name: str = "head.weight") -> Floats:
        """Weights after a stage, [seeds, d]; `name` "head.bias" for the bias [seeds, 1]."""
        results = [self.execution.results[node.key] for node in self.nodes(regime, stage)]
        return np.stack([result.weights[name].double().numpy().reshape(-1) for result in results])

    def metric(self, regime: str, name: str) -> Floats:
        """A metric of result.json, [seeds]; NaN where it is undefined."""
        results = [result_of(self.config, self.plan, run, self.execution, self.scores) for run in self.runs(regime)]
        values = [result["metrics"][name] for result in results]
        return np.array([np.nan if value is None else value for value in values])

    @property
    def unconverged(self) -> int:
        """Stages that hit the cap of their stopping rule, or diverged."""
        ledgers = [result.ledger for result in self.execution.results.values()]
        return sum(ledger.converged is False or ledger.diverged for ledger in ledgers)

    def setting(self, text: str) -> str:
        """The setting of a row, marked if a stage did not converge."""
        return f"{text}; NOT CONVERGED" if self.unconverged else text


def measure(config: Config, *, accuracy: float | None = 1e-8, stiffness: float = 1.0) -> MeasuredCell:
    """Trains every regime and seed of the cell.

    Args:
        accuracy: Error of the weights at which descent may stop; learning rate, momentum and tolerance follow from it
            and from the Hessians of all stages. None: as configured.
        stiffness: The largest factor by which a penalty multiplies the largest curvature.
    """
    factory = resolve(config).streams
    streams = {seed: factory.build(seed) for seed in config.seeds}
    wanted = [(regime, seed) for seed in config.seeds for regime in config.regimes]
    plan = make_plan(config, streams, wanted)
    if accuracy is not None:
        config = tuned(config, [node for node in plan.nodes.values() if node.length.updates], accuracy, stiffness)
        plan = make_plan(config, streams, wanted)
    device = device_of(config.trainer)
    with tempfile.TemporaryDirectory() as folder:
        execution = execute(config, plan, Memory(Path(folder)), device)
    if execution.failures:
        line, trace = next(iter(execution.failures.values()))
        raise RuntimeError(f"{line}\n{trace}")
    return MeasuredCell(config, streams, plan, execution, score_all(config, plan, execution, device))


def tuned(config: Config, nodes: Sequence[Node], accuracy: float, stiffness: float) -> Config:
    """Sets the rate and momentum of the fastest descent, and the gradient tolerance for weights within `accuracy`."""
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


def parts_of(stream: Stream) -> list[tuple[Floats, Floats]]:
    """Inputs and targets of every data set of a stream."""
    return [design(part) for part in stream.train]


def lab(*overrides: str, regimes: str, seeds: int | Sequence[int], study: str = "linear_lab") -> Config:
    """A cell of the linear lab. `regimes`: as on the command line, without brackets."""
    chosen = seeds if isinstance(seeds, int) else "[" + ",".join(map(str, seeds)) + "]"
    return compose([f"study={study}", f"regimes=[{regimes}]", f"seeds={chosen}", "tracking=off", *overrides])


def bias_cell(n_samples: int, *overrides: str) -> MeasuredCell:
    """Trains a classifier of three classes by its biases alone: all inputs are 0."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "zeros.npz"
        np.savez(path, x=np.zeros((n_samples, 1), np.float32), y=np.arange(n_samples) % 3)
        words = ["data=arrays", f"data.path={path}", "arch=linear", "arch.init=zero", "arch.bias=true", "tracking=off"]
        words += ["optimizer.batch_size=full", "optimizer.momentum=0", "trainer=cpu", "trainer.precision=64"]
        return measure(compose([*words, *overrides]), accuracy=None)


def without_convergence(*overrides: str) -> tuple[str, ...]:
    """The overrides without the keys that the study sets for stopping=convergence."""
    keys = ("quantity", "tolerance", "max_epochs", "check_every")
    return (*overrides, *(f"~stopping.{key}" for key in keys))


def bias_descent(epochs: int) -> tuple[str, ...]:
    """Overrides of SGD, one sample a step, on (b - c_i)^2 of a bias alone."""
    words = ("data.dim=1", "data.covariances=[[[0]],[[0]]]", "arch.bias=true", "data.noise=1", "optimizer.batch_size=1")
    return without_convergence(*words, "stopping=epochs", f"stopping.epochs={epochs}")


TO_THE_OPTIMUM = (
    *("optimizer.lr=2", "stopping=convergence", "stopping.quantity=gradient"),
    *("stopping.tolerance=1e-11", "stopping.max_epochs=5000"),
)
"""Overrides of `bias_cell`: every stage ends at its optimum."""
