"""The work of a search's command: its trials up to `n_trials`, of which those not chosen yet count as waiting."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing

from optuna.trial import FrozenTrial

from src.cells.resolve import ResolvedCell
from src.config.space import distribution_in_words
from src.progress import SweepProgress, duration
from src.sweep.engine import Engine, Report
from src.sweep.grid.line import CommandLine
from src.sweep.processes import Process
from src.sweep.queue.queue import WorkQueue
from src.sweep.search.search import make_search
from src.sweep.search.summary import report_search
from src.sweep.search.trials import Searched, TrialQueue, best_text
from src.sweep.work import Trials, Work


class SearchWork(Work):
    """The points of a search, by their numbers. Raises ConfigError if the search is invalid."""

    kind = "trial"

    def __init__(self, line: CommandLine, engine: Engine) -> None:
        self.search, self._first, refused = make_search(line, engine)
        super().__init__(self._first.config, engine)
        self.search_id = self.search.id
        self.trials: Sequence[FrozenTrial] = ()
        """The last trial of each point, in the order of the points."""
        for remark in self._remarks(refused):
            print(remark, file=sys.stderr)

    def _remarks(self, refused: Sequence[str]) -> Iterator[str]:
        if refused:
            others = f" (and {len(refused) - 1} more corners)" if len(refused) > 1 else ""
            yield f"part of the space is refused, and its trials are pruned: {refused[0]}{others}"
        of = self.search.objective.of
        unread = [regime.label for regime in self.config.regimes if regime.label not in of]
        if unread:
            saves = f"regimes=[{','.join(of)}] saves it"
            yield f"{', '.join(unread)}: trained, though the objective does not read it ({saves})"

    def is_finished(self) -> bool:
        return False  # its study says

    def open(self, process: Process) -> WorkQueue:
        self.search.save(self.folder)
        return TrialQueue(self.folder, process, self.folder.write_queue(self.config.storage), self.search_id)

    def fill(self, queue: WorkQueue, *, alone: bool) -> Iterator[int]:
        assert isinstance(queue, TrialQueue)
        if alone:
            queue.retry_failed()
        yield queue.n_waiting()

    def progress(self, trials: Trials) -> SweepProgress:
        self.trials = list(trials.values())
        states = Counter(trial.state.name for trial in self.trials)
        n = max(len(trials), self.search.limit(self.folder))
        n_done = sum(trial.state.is_finished() for trial in self.trials)
        best = best_text(self.trials, self.search)
        shown = {
            name: states[state] for name, state in (("running", "RUNNING"), ("pruned", "PRUNED"), ("failed", "FAIL"))
        }
        return SweepProgress(
            n=n,
            n_done=n_done,
            n_open=n - n_done,
            n_waiting=n - n_done - states["RUNNING"],
            counts=[f"trials {n_done}/{n}", *(f"{name} {count}" for name, count in shown.items() if count)],
            result=f"{'best ' * self.search.strategy.finds_best}{best}" if best else "",
        )

    def cells(self) -> list[ResolvedCell]:
        """The cells of all valid points, each once; before the first trial, a valid corner of the space."""
        if not self.trials:
            return [self._first]
        valid = {trial.user_attrs["cell"]: trial for trial in self.trials if "cell" in trial.user_attrs}
        return [self.engine.resolve(self.search.cell(trial.params).config) for trial in valid.values()]

    @property
    def report(self) -> Report:
        return functools.partial(report_search, Searched(self.search, self.trials, self.folder.search(self.search_id)))

    def description(self, n_workers: int) -> list[str]:
        search, config = self.search, self.config
        lines = [f"{key}: {distribution_in_words(distribution)}" for key, distribution in search.space.items()]
        lines.append(f"objective: {search.goal_in_words}, mean over {len(config.seeds)} seeds")
        if search.config.pruner != "none":
            lines.append(f"pruner: {search.config.pruner}")
        trials = self._stored_trials()
        progress = self.progress(trials)
        n_left, n_runs = progress.n_open, len(config.regimes) * len(config.seeds)
        lines.append(f"search {search.id}: {progress.n_done} trials done, {n_left} left, of {n_runs} runs each")
        lines += [progress.result.replace(" ", ": ", 1)] if progress.result else []
        seconds = [t.duration.total_seconds() for t in trials.values() if t.duration and t.values]
        if not n_left:
            return [*lines, "nothing to run"]
        if not seconds:
            return [*lines, "time: unknown until a first trial is finished"]
        left = duration(sum(seconds) / len(seconds) * n_left / min(n_workers, n_left))
        return [*lines, f"time: about {left} with {n_workers} workers"]

    def _stored_trials(self) -> Trials:
        """The trials of earlier commands; changes nothing."""
        folder, search_id = self.folder, self.search_id
        if not (folder.search(search_id) / "search.json").exists() or not (folder.root / "queue.json").exists():
            return {}
        description = {**folder.read_queue(), "storage": self.config.storage}
        with (
            Process(folder, "status") as process,
            closing(TrialQueue(folder, process, description, search_id)) as queue,
        ):
            return queue.latest()
