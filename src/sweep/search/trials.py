"""The trials of a search: a work queue that fills itself, one point at a time, as workers come for the next cell.

Asking for a point, checking it and queueing its cell happen under the queue's lock. A trial carries the number of its
point: one that failed is tried by the next command as another trial of the same point, and `n_trials` counts points.
How a trial ends: with the objective's value; pruned where its point is refused, diverged, or cut short by the pruner, which
samplers take for bad (TPE) or leave out; failed where something raised.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.comparison.objective import Score
from src.config import Config
from src.errors import ConfigError, Pruned
from src.sweep.engine import Engine, Outcome, load_engine
from src.sweep.folder import SweepFolder
from src.sweep.processes import Member
from src.sweep.queue.database import locked
from src.sweep.queue.queue import Claim, WorkQueue, in_short
from src.sweep.search.pruning import follow, way_of, why
from src.sweep.search.search import Search, load_search
from src.sweep.search.space import Point, corners
from src.training.control import OnProgress, ProgressReport


class TrialQueue(WorkQueue):
    """The queue of the search `search_id` of a sweep, as it lies in the sweep's folder; see `WorkQueue`."""

    def __init__(self, folder: SweepFolder, member: Member, about: Mapping[str, Any], search_id: str) -> None:
        self.search = load_search(folder, search_id)
        self._engine_name = str(about["engine"])
        super().__init__(
            folder, member, about, study=f"{folder.sweep}/{search_id}", direction=self.search.objective.goal
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # naming what the values are
            self._study.set_metric_names([self.search.objective.text])

    @property
    def name(self) -> str:
        """See `WorkQueue.name`."""
        return self.search.id

    @property
    def _engine(self) -> Engine:
        return load_engine(self._engine_name)

    def warm_up(self) -> None:
        """Loads what the first point needs (modules, data), which would otherwise be waited for under the lock."""
        with contextlib.suppress(ConfigError):  # one corner may be refused; the points that are tried say so themselves
            self.search.plan(next(corners(self.search.space)), self._engine)

    def claim(self) -> Claim | None:
        """Takes the first waiting cell; with none, asks for the next points until one is to be run. None when all are
        asked for, or when the one that waits is a cell that another worker is running."""
        while (claim := super().claim()) is None and self._ask():
            pass
        return claim

    def config_of(self, claim: Claim) -> Config:
        """What the worker is to run: the cell at the trial's own point."""
        return self.search.cell(self.trial(claim.trial_id).params).config

    def on_progress(self, claim: Claim) -> OnProgress | None:
        """Where the search prunes: notes the way of the claim's trial, and raises `Pruned` where the pruner ends it."""
        search, n_known = self.search, 0
        if search.config.pruner == "none":
            return None

        def on_progress(progress_reports: Sequence[ProgressReport]) -> None:
            nonlocal n_known
            way = way_of(progress_reports, search.objective.metric)
            if len(way) > n_known:
                n_known = len(way)
                if ended := self._note(claim, way):
                    raise Pruned(why(ended, search))

        return on_progress

    @locked
    def _note(self, claim: Claim, way: Mapping[int, float]) -> FrozenTrial | None:
        """Keeps with a trial how far it has come, for the trials to come; the trial if it is to end here."""
        trials, number = self.trials(), self.trial(claim.trial_id).number
        trial, ends = follow(self.search, trials, number, way)
        try:
            for step, value in trial.intermediate_values.items() - trials[number].intermediate_values.items():
                self._storage.set_trial_intermediate_value(claim.trial_id, step, value)
            for key, rung in trial.system_attrs.items():
                self._storage.set_trial_system_attr(claim.trial_id, key, rung)
        except UpdateFinishedTrialError:  # another host took this worker for dead, and has ended it
            return None
        return trial if ends else None

    def tell(self, claim: Claim, outcome: Outcome) -> None:
        """Ends the trial with what the results on disk are worth; the cell's own value, read from test sets, is not."""
        score = self._engine.score(self._engine.resolve(self.config_of(claim)), self.search.objective)
        if score.means is not None:
            self.complete(claim, self.search.objective.value(score.means), {"means": dict(score.means)})
        elif score.diverged:
            self.complete_without_value(claim, score.problem)
        else:
            self.fail(claim, in_short(outcome.failures) if outcome.failures else score.problem)

    @locked
    def try_failed_again(self) -> None:
        """Queues the points whose last trial failed; for a new command, when no other one of this sweep lives."""
        for trial in latest(self.trials()).values():
            if "cell" in trial.user_attrs and trial.state in (TrialState.FAIL, TrialState.WAITING):
                self._describe(trial.user_attrs["cell"], self.search.cell(trial.params).config)  # if it was deleted
            if trial.state == TrialState.FAIL:
                kept = {key: value for key, value in trial.user_attrs.items() if key in ("point", "axes", "cell")}
                self._put(trial.params, TrialState.WAITING, {**kept, "attempt": 1})

    def n_waiting(self) -> int:
        """Points that wait for a worker, those that are not chosen yet included."""
        points = latest(self.trials()).values()
        n_to_ask = max(0, self.search.config.n_trials - len(points))
        return n_to_ask + sum(point.state == TrialState.WAITING for point in points)

    def sample(self) -> Config | None:
        """What one of the points runs with; None when all are done."""
        if not self.n_waiting() and not self.entries("RUNNING", limit=1):
            return None
        for point in corners(self.search.space):
            with contextlib.suppress(ConfigError):  # a corner may be refused; the command has found one that is not
                return self.search.cell(point).config
        raise AssertionError("every corner of the space is refused")

    @locked
    def _ask(self) -> bool:
        """Adds the trial of the next point; False when there is no next one now."""
        trials = self.trials()
        points = latest(trials)
        waits = any(trial.state == TrialState.WAITING for trial in points.values())
        if waits or len(points) >= self.search.config.n_trials:
            return False
        point = self.search.suggest(len(points), trials)
        about: dict[str, Any] = {"point": len(points), "axes": {key: str(value) for key, value in point.items()}}
        try:
            plan = self.search.plan(point, self._engine)
        except ConfigError as error:
            self._put(point, TrialState.PRUNED, {**about, "reason": str(error)})
            return True
        ((cell_hash, cell),) = plan.cells.items()
        about |= {"cell": cell_hash, "attempt": 1}
        found = plan.resolved[cell_hash]
        score = self._engine.score(found, self.search.objective) if not plan.missing else Score(None)
        if score.means is not None:  # finished for an earlier search, a grid or another point
            value = self.search.objective.value(score.means)
            self._put(point, TrialState.COMPLETE, {**about, "means": dict(score.means)}, value)
        elif score.diverged:
            self._put(point, TrialState.PRUNED, {**about, "reason": score.problem})
        else:
            self._describe(cell_hash, cell.config)
            self._put(point, TrialState.WAITING, about)
        return True

    def _describe(self, cell_hash: str, config: Config) -> None:
        """Writes what the cell is for the report, unless it is said: a grid may have its own, with more runs."""
        if not self._folder.has_cell(cell_hash):
            self._folder.write_cell(cell_hash, config)

    def _put(self, point: Point, state: TrialState, about: Mapping[str, Any], value: float | None = None) -> None:
        trial = create_trial(
            state=state, value=value, params=dict(point), distributions=dict(self.search.space), user_attrs=dict(about)
        )
        self._add([trial])


def latest(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """The last trial of each point, by the point's number."""
    return {trial.user_attrs["point"]: trial for trial in trials}


def best_first(trials: Sequence[FrozenTrial], search: Search) -> list[FrozenTrial]:
    """The trials that have a value, the best first."""
    valued = [trial for trial in latest(trials).values() if trial.state == TrialState.COMPLETE]
    return sorted(valued, key=lambda trial: trial.values[0], reverse=search.objective.maximised)
