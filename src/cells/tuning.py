"""Tunes the regimes of a cell: equally many trials of each, on validation data and seeds that no comparison uses."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from src.cells.resolve import ResolvedCell
from src.comparison.tuning import Tuned, TuningTrial, best_trial, read_tuned, write_tuned
from src.config.tune import EqualTuning, plain_point
from src.evaluation.flops import training_flops
from src.io import digest
from src.regimes.catalog import RegimeConfig
from src.training.control import RunControl
from src.training.devices import Device
from src.training.plan import Run, StagePlan, make_plan
from src.training.scoring import validation_curves
from src.training.store.store import Store

if TYPE_CHECKING:
    from src.config.space import Space
    from src.training.execute import Execution

EDGE = 1 / 8
"""Share of a range, on its scale, that counts as its edge; with more trials, one trial's share."""


class StopsOnly(RunControl):
    """Lets the caller of a cell stop its tuning, whose progress says nothing about the cell's own runs."""

    def __init__(self, control: RunControl) -> None:
        self._control, self.helps = control, control.helps

    def n_workers(self) -> int:
        return self._control.n_workers()

    def on_stage(self) -> None:
        self._control.on_stage()


def tuned_regimes(
    cell: ResolvedCell, regimes: Iterable[RegimeConfig], store: Store, device: Device, control: RunControl
) -> dict[RegimeConfig, RegimeConfig]:
    """Each of the `regimes` with the values that its tuning chose, under its own label; itself in a cell without
    tuning.

    Tunes what no file in the folder of the cell has. A choice depends on the cell and the regime alone. Raises
    torch.OutOfMemoryError, so that a larger device may repeat it.
    """
    from src.training.execute import from_first_rank  # Lightning takes seconds to import

    chosen = {}
    for regime in dict.fromkeys(regimes):
        tuned = from_first_rank(lambda regime=regime: read_tuned(cell.folder, regime.label), device)  # type: ignore[misc]
        if tuned is None and cell.config.tune.n_runs:
            tuned = _tune(cell, regime, store, device, StopsOnly(control))
        chosen[regime] = regime if tuned is None else cell.with_choice(regime, tuned)
    return chosen


def _tune(cell: ResolvedCell, regime: RegimeConfig, store: Store, device: Device, control: RunControl) -> Tuned:
    import torch

    from src.training.execute import POLL_SECONDS, execute, from_first_rank

    tuning = cell.config.tune
    assert isinstance(tuning, EqualTuning)
    space = tuning.space_of(regime)
    points = sample(tuning, space, cell.hash, regime.label)
    streams = {seed: cell.streams.build(seed) for seed in tuning.seeds_used}
    trials = [cell.with_values(regime, point) for point in points]
    plan = make_plan(cell.config, streams, [(trial, seed) for trial in trials for seed in streams])
    execution = execute(cell.config, plan, store, device, control)
    if execution.out_of_memory:
        raise torch.OutOfMemoryError(f"while {regime.label} was tuned")
    if control.helps:  # the choice is the other worker's
        while (tuned := read_tuned(cell.folder, regime.label)) is None:
            control.on_stage()
            time.sleep(POLL_SECONDS)
        return tuned

    def result() -> Tuned:
        metric = tuning.objective or f"val/union/{'loss' if cell.streams.source.is_regression else 'accuracy'}"
        per_trial = [plan.runs[k : k + tuning.seeds] for k in range(0, len(plan.runs), tuning.seeds)]
        found = [_trial(cell, plan, execution, p, r, metric) for p, r in zip(points, per_trial, strict=True)]
        best = best_trial([trial.score for trial in found], metric)
        edges = edges_of(points[best], space, tuning.trials)
        tuned = Tuned(regime=regime.label, objective=metric, trials=found, best=best, edges=edges)
        write_tuned(cell.folder, tuned)
        return tuned

    return from_first_rank(result, device)


def sample(tuning: EqualTuning, space: Space, *address: str) -> list[dict[str, Any]]:
    """The points of all trials: a scrambled Sobol' sequence by Optuna, which `tuning.seed` and the `address` determine.

    The points do not depend on values, so all trials train side by side, in any order.
    """
    import optuna

    from src.config.space import ends_of, rounded

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = int(digest([tuning.seed, *address])[:8], 16)
    with warnings.catch_warnings():  # its version is pinned
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=optuna.samplers.QMCSampler(scramble=True, seed=seed))
    # Optuna draws the first trial of a study at random, since only that tells the sampler the space
    first = {key: ends_of(distribution)[0] for key, distribution in space.items()}
    study.add_trial(optuna.trial.create_trial(params=first, distributions=dict(space), value=0.0))
    asked = [study.ask(dict(space)).params for _ in range(tuning.trials)]
    return [plain_point(rounded({key: params[key] for key in space}, space)) for params in asked]


def edges_of(point: dict[str, Any], space: Space, n_trials: int) -> dict[str, str]:
    """The values of a point at the lower or upper end of their range, which the best ones may lie beyond."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    edges = {}
    for key, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            numbers = sorted(c for c in distribution.choices if isinstance(c, int | float) and not isinstance(c, bool))
            if len(numbers) < len(distribution.choices):
                continue  # names have no order
            low, high, value, margin = 0.0, len(numbers) - 1.0, float(numbers.index(point[key])), 0.0
        else:
            assert isinstance(distribution, FloatDistribution | IntDistribution)
            scale = math.log if distribution.log else float
            low, high, value = (float(scale(x)) for x in (distribution.low, distribution.high, point[key]))
            margin = min(EDGE, 1 / n_trials) * (high - low)
        if value <= low + margin:
            edges[key] = "lower"
        elif value >= high - margin:
            edges[key] = "upper"
    return edges


def _trial(
    cell: ResolvedCell, plan: StagePlan, execution: Execution, point: dict[str, Any], runs: Sequence[Run], metric: str
) -> TuningTrial:
    found = [_training(cell, plan, execution, run) for run in runs]
    values = [one["metrics"].get(metric) for one in found]
    problem = next((one["problem"] for one in found if one["problem"]), "")
    if not problem and None in values:
        problem = f"{metric} is undefined"
    sums = {name: sum(one[name] for one in found) for name in ("updates", "samples", "flops", "seconds")}
    score = None if problem else math.fsum(values) / len(values)
    return TuningTrial(values=point, score=score, problem=problem, runs=found, **sums)


def _training(cell: ResolvedCell, plan: StagePlan, execution: Execution, run: Run) -> dict[str, Any]:
    """One training of a trial as plain JSON: final validation metrics, cost and stage keys."""
    done = [key for key in run.stages if key in execution.results]
    ledgers = [execution.results[key].ledger for key in done]
    problem, metrics = "", {}
    if failure := next((execution.failures[key] for key in run.stages if key in execution.failures), None):
        problem = failure[0]
    elif any(execution.diverged(key) for key in done):
        problem = "its loss is not finite"
    else:
        stream, curves = plan.nodes[done[-1]].stream, execution.results[done[-1]].curves
        last = {name: float(series[-1]) for name, series in validation_curves(stream, curves).items()}
        metrics = {name: value if math.isfinite(value) else None for name, value in last.items()}
    stream, samples = plan.nodes[run.stages[0]].stream, sum(ledger.samples for ledger in ledgers)
    passes = samples + sum(ledger.extra_passes for ledger in ledgers)
    return {
        "seed": run.seed,
        "problem": problem,
        "metrics": metrics,
        "updates": sum(ledger.updates for ledger in ledgers),
        "samples": samples,
        "flops": float(training_flops(cell.config.arch, stream.input_shape, stream.n_outputs) * passes),
        "seconds": sum(ledger.seconds for ledger in ledgers),
        "stages": list(run.stages),
    }
