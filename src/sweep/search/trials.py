"""The trials of a search: a work queue that asks the sampler for the next point whenever a worker finds no waiting
cell.

Each trial carries the number of its point. A failed point is tried by the next command as another trial of the same
point; `n_trials` counts points. A trial ends with the objective's value; pruned, if its point is refused, a run
diverges or the pruner stops it (samplers count this as bad, TPE, or leave it out); failed, if something raises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from src.cells.outcome import CellOutcome
from src.comparison.metrics import Score
from src.comparison.units import unit_of
from src.config import Config
from src.config.space import Point
from src.errors import ConfigError, Pruned
from src.io import write_atomically
from src.locks import locked
from src.sweep.engine import DEFAULT_ENGINE, Engine, load_engine
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import covers, with_runs_of
from src.sweep.processes import Process
from src.sweep.queue.queue import ClaimedCell, WorkQueue, shortened
from src.sweep.queue.retry import Result
from src.sweep.search.pruning import metric_by_step, prune_reason, replay
from src.sweep.search.search import ENOUGH, Search, corners, load_search
from src.sweep.work import axes_text
from src.training.control import OnProgress, ProgressReport

KEPT = ("point", "axes", "cell", "n_seeds", "certain")
"""User attributes that the next trial of a failed point has from the start."""


class TrialQueue(WorkQueue):
    """The queue of one search of a sweep; see `WorkQueue`."""

    key = "point"

    def __init__(self, folder: SweepFolder, process: Process, search_id: str, engine: str = DEFAULT_ENGINE) -> None:
        self.search = load_search(folder, search_id)
        self.search_id = search_id
        self._engine_name = engine
        name, objective = f"{folder.sweep}/{search_id}", self.search.objective
        super().__init__(folder, process, name=name, direction=objective.goal, value=objective.text)

    @property
    def _engine(self) -> Engine:
        return load_engine(self._engine_name)

    def warm_up(self) -> None:
        """Loads the modules and data that the first point needs, for which others would wait otherwise."""
        with contextlib.suppress(ConfigError):  # a corner may be refused; so may points, each with its own error
            self.search.plan(next(corners(self.search.space)), self._engine)

    def claim(self) -> ClaimedCell | None:
        """Claims the first waiting cell, or else asks for further points until one is to be run.

        None when all points have been requested, or when another worker runs the cell of the one that waits.
        """
        while (claim := super().claim()) is None and self._exclusively(self._ask):
            pass
        return claim

    def running(self) -> list[ClaimedCell]:
        """None with a pruner, which needs the progress of all runs of a trial in one process."""
        return super().running() if self.search.config.pruner == "none" else []

    def config_of(self, trial: FrozenTrial) -> Config:
        """The cell at the trial's point."""
        return self.search.cell(trial.params, trial.user_attrs.get("n_seeds")).config

    def on_progress(self, claim: ClaimedCell) -> OnProgress | None:
        """With a pruner: stores the progress of the claimed trial, and raises `Pruned` where the pruner stops it."""
        search, n_known = self.search, 0
        if search.config.pruner == "none":
            return None

        def on_progress(progress_reports: Sequence[ProgressReport]) -> None:
            nonlocal n_known
            values = metric_by_step(progress_reports, search.objective.metric)
            if len(values) > n_known:
                n_known = len(values)
                trial, stops = self.retry(lambda: self._record_progress(claim, values))
                if stops:
                    raise Pruned(prune_reason(trial, search))

        return on_progress

    def _record_progress(self, claim: ClaimedCell, values: Mapping[int, float]) -> tuple[FrozenTrial, bool]:
        """Stores the claimed trial's values for later decisions; returns it, and whether it stops here."""
        points = self.latest()
        point = claim.trial.user_attrs["point"]
        trial, stops = replay(self.search, list(points.values()), point, values)
        known = points[point].intermediate_values
        new = {step: value for step, value in trial.intermediate_values.items() if known.get(step) != value}
        self._store.note(claim.trial.number, new, trial.system_attrs)
        return trial, stops

    def tell(self, claim: ClaimedCell, outcome: CellOutcome) -> None:
        """Ends the trial with the objective's value, from the results on disk. (The cell's own reads test sets.)"""
        score = self._engine.score(self._engine.resolve(self.config_of(claim.trial)), self.search.objective)
        if score.means is not None:
            self.complete(claim, self.search.objective.value(score.means), **_found(score))
        elif score.diverged:
            self.complete_without_value(claim, score.problem)
        else:
            self.fail(claim, shortened(outcome.failures) if outcome.failures else score.problem)

    def retry_failed(self) -> None:
        """Queues the points whose last trial failed; for a new command, when no other one of this sweep is alive."""
        self._exclusively(self._retry_failed)

    def _retry_failed(self) -> None:
        for trial in self.latest().values():
            if "cell" in trial.user_attrs and trial.state in (TrialState.FAIL, TrialState.WAITING):
                self._describe(trial.user_attrs["cell"], self.config_of(trial))  # its folder may have been deleted
            if trial.state == TrialState.FAIL:
                kept = {key: value for key, value in trial.user_attrs.items() if key in KEPT}
                self._put(trial.params, TrialState.WAITING, kept)

    def n_waiting(self) -> int:
        """Number of points that wait for a worker, those that are not chosen yet included."""
        points = self.latest().values()
        n_to_ask = max(0, self.search.limit(self._folder) - len(points))
        return n_to_ask + sum(point.state == TrialState.WAITING for point in points)

    def sample(self) -> Config | None:
        """The config of any point; None if all have ended."""
        if not self.n_waiting() and not self.trials(TrialState.RUNNING):
            return None
        for point in corners(self.search.space):
            with contextlib.suppress(ConfigError):  # the command has found a corner that is not refused
                return self.search.cell(point).config
        raise AssertionError("every corner of the space is refused")

    def _exclusively(self, operation: Callable[[], Result]) -> Result:
        """The result of an operation under the lock under which points are added."""
        with locked(self._folder.search(self.search_id) / "ask.lock"):
            return self.retry(operation)

    def _ask(self) -> bool:
        """Adds the trial of the next point; False if there is none, or if one waits."""
        points = self.latest()
        waits = any(trial.state == TrialState.WAITING for trial in points.values())
        if waits or len(points) >= self.search.limit(self._folder):
            return False
        proposal = self.search.propose(list(points.values()))
        if proposal is None:
            if not any(trial.state == TrialState.RUNNING for trial in points.values()):
                write_atomically(self._folder.search(self.search_id) / ENOUGH, f"{len(points)}\n")
            return False
        point = proposal.point
        attributes: dict[str, Any] = {"point": len(points), "axes": {key: str(value) for key, value in point.items()}}
        attributes |= proposal.attributes
        try:
            plan = self.search.plan(point, self._engine, attributes.get("n_seeds"))
        except ConfigError as error:
            self._put(point, TrialState.PRUNED, {**attributes, "reason": str(error)})
            return True
        ((cell_hash, cell),) = plan.cells.items()
        attributes["cell"] = cell_hash
        found = plan.resolved[cell_hash]
        score = self._engine.score(found, self.search.objective) if not plan.missing else Score(None)
        if score.means is not None:  # finished by an earlier search, a grid or another point
            value = self.search.objective.value(score.means)
            self._put(point, TrialState.COMPLETE, {**attributes, **_found(score)}, value)
        elif score.diverged:
            self._put(point, TrialState.PRUNED, {**attributes, "reason": score.problem})
        else:
            self._describe(cell_hash, cell.config)
            self._put(point, TrialState.WAITING, attributes)
        return True

    def _describe(self, cell_hash: str, config: Config) -> None:
        """Writes the cell's config for the report, with the runs of the one that there is: a grid's may have more."""
        if self._folder.has_cell(cell_hash):
            known = self._folder.read_cell(cell_hash)
            if covers(known, config):
                return
            config = with_runs_of(config, known, config)
        self._folder.write_cell(cell_hash, config)

    def _put(self, point: Point, state: TrialState, attributes: Mapping[str, Any], value: float | None = None) -> None:
        trial = create_trial(
            state=state,
            value=value,
            params=dict(point),
            distributions=dict(self.search.space),
            user_attrs=dict(attributes),
        )
        self._store.add([trial])


@dataclass(frozen=True)
class Searched:
    """A search with the last trial of each point, in the order of the points. `folder`: the search's own."""

    search: Search
    trials: Sequence[FrozenTrial]
    folder: Path


def best_first(trials: Sequence[FrozenTrial], search: Search) -> list[FrozenTrial]:
    """The trials with a value, the best first."""
    valued = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(valued, key=lambda trial: trial.values[0], reverse=search.objective.maximised)


def _found(score: Score) -> dict[str, Any]:
    """The user attributes of a trial with a value."""
    assert score.means is not None
    return {"means": dict(score.means)} | ({"differences": list(score.differences)} if score.differences else {})


def best_text(trials: Sequence[FrozenTrial], search: Search) -> str | None:
    """The best value so far and its point, or the share of the map that is certain."""
    if not search.strategy.finds_best:
        return f"{trials[-1].user_attrs.get('certain', 0.0):.0%} of the map certain" if trials else None
    best = best_first(trials, search)
    return f"{value_text(best[0], search)} at {axes_text(best[0])}" if best else None


def value_text(trial: FrozenTrial, search: Search, *, with_unit: bool = True) -> str:
    """The value of a trial in the unit of its metric: "85.9 %", and of a difference "+3.8 points"."""
    objective, unit = search.objective, unit_of(search.objective.metric)
    is_difference = len(objective.of) > 1
    is_signed = is_difference and not objective.direction.endswith("absolute")
    text = (unit.difference if is_signed else unit.value)(trial.values[0])
    return f"{text} {unit.of_differences if is_difference else unit.of_values}".rstrip() if with_unit else text
