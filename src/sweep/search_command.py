"""The command of a search: supervises the workers on its trials and reports the best ones."""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from src.config import Config
from src.errors import ConfigError
from src.sweep.engine import Engine
from src.sweep.folder import SweepFolder
from src.sweep.grid.line import CommandLine
from src.sweep.processes import Process
from src.sweep.progress import SweepProgress, duration
from src.sweep.queue.queue import WorkQueue
from src.sweep.search.search import Search, make_search
from src.sweep.search.space import distribution_in_words
from src.sweep.search.summary import report_search
from src.sweep.search.trials import Searched, TrialQueue, axes_text, best_text, latest
from src.sweep.supervisor import Supervisor, report_detached
from src.sweep.workers.launch import workers_for
from src.sweep.workers.local import Workers, n_workers_of


def run_search(line: CommandLine, engine: Engine) -> tuple[list[str], Path]:
    """Continues the search up to `n_trials`; returns a line for each failed point, and the folder of the logs.

    Raises ConfigError before anything runs.
    """
    search, first, refused = make_search(line, engine)
    config = first.config
    _check_sampler(search)
    folder = SweepFolder(Path(config.multirun), config.sweep)
    console = Console(stderr=True)
    for remark in _remarks(search, config, refused):
        console.print(remark, markup=False, highlight=False, soft_wrap=True)
    if config.dry_run:
        print("\n".join(_describe(search, config, folder)))
        return [], folder.logs
    search.save(folder)
    workers = workers_for(folder, config, engine.__name__, search.id)
    supervisor = SearchSupervisor(search, config, folder, engine, workers, console)
    if config.launcher.detached:
        supervisor.run()
        if supervisor.detached:
            report_detached(config, console)
            return [], folder.logs
    with engine.session([first]) as session:
        failures = supervisor.run()
        searched = Searched(search, supervisor.trials, folder.search(search.id))
        cells = [engine.resolve(one) for one in supervisor.cells()]
        session.finish(cells, functools.partial(report_search, searched))
    return [f"trial {point} {reason}" for point, reason in failures.items()], folder.logs


class SearchSupervisor(Supervisor):
    """Supervises the points of a search, by their numbers; those not chosen yet count as waiting."""

    def __init__(
        self, search: Search, config: Config, folder: SweepFolder, engine: Engine, workers: Workers, console: Console
    ) -> None:
        super().__init__(folder, engine, workers, console)
        self._search, self._config = search, config
        self.trials: list[FrozenTrial] = []
        """The last trial of each point, in the order of the points."""

    def open(self, process: Process) -> WorkQueue:
        return TrialQueue(self._folder, process, self._folder.write_queue(self._config.storage), self._search.id)

    def fill(self, queue: WorkQueue, *, alone: bool) -> None:
        assert isinstance(queue, TrialQueue)
        if alone:
            queue.retry_failed()
        if not self._n_interrupts:
            self._workers.keep_running(queue.n_waiting(), 0)

    def states(self, queue: WorkQueue) -> dict[str, str]:
        found = latest(queue.trials())
        self.trials = [found[point] for point in sorted(found)]
        states = {str(point): trial.state.name for point, trial in found.items()}
        return dict.fromkeys(map(str, range(self._search.config.n_trials)), "WAITING") | states

    def failures(self, queue: WorkQueue) -> dict[str, str]:
        del queue
        return {
            str(trial.user_attrs["point"]): f"({axes_text(trial)}): {trial.user_attrs.get('reason', 'failed')}"
            for trial in self.trials
            if trial.state == TrialState.FAIL
        }

    def progress(self, states: Mapping[str, str]) -> SweepProgress:
        counts = Counter(states.values())
        n = max(len(states), self._search.config.n_trials)
        n_done = counts["COMPLETE"] + counts["PRUNED"] + counts["FAIL"]
        return SearchProgress(
            n_cells=n,
            n_cells_done=n_done,
            n_runs=n,
            n_runs_done=n_done,
            n_running=counts["RUNNING"],
            n_failed=counts["FAIL"],
            n_pruned=counts["PRUNED"],
            best=best_text(self.trials, self._search),
        )

    def cells(self) -> list[Config]:
        """The cells of all valid points, each once."""
        valid = {trial.user_attrs["cell"]: trial for trial in self.trials if "cell" in trial.user_attrs}
        return [self._search.cell(trial.params).config for trial in valid.values()]


@dataclass(frozen=True)
class SearchProgress(SweepProgress):
    """The progress of a search; its cells and runs are its trials."""

    n_pruned: int = 0
    best: str | None = None

    def line(self, eta_seconds: float | None) -> str:
        parts = [f"trials {self.n_cells_done}/{self.n_cells}"]
        counts = {"running": self.n_running, "pruned": self.n_pruned, "failed": self.n_failed}
        parts += [f"{name} {count}" for name, count in counts.items() if count]
        if eta_seconds is not None and self.n_cells_done < self.n_cells:
            parts.append(f"left {duration(eta_seconds)}")
        return " | ".join([*parts, f"best {self.best}"] if self.best else parts)


def _check_sampler(search: Search) -> None:
    for package in ("torch", "scipy"):
        if search.config.name == "gp" and importlib.util.find_spec(package) is None:
            raise ConfigError("search", "gp", f"needs the package {package}; install it, or take search=tpe")


def _remarks(search: Search, config: Config, refused: Sequence[str]) -> list[str]:
    remarks = []
    if refused:
        others = f" (and {len(refused) - 1} more corners)" if len(refused) > 1 else ""
        remarks.append(f"part of the space is refused, and its trials are pruned: {refused[0]}{others}")
    unread = [regime.label for regime in config.regimes if regime.label not in search.objective.of]
    if unread:
        read = ",".join(search.objective.of)
        remarks.append(
            f"{', '.join(unread)}: trained, though the objective does not read it (regimes=[{read}] saves it)"
        )
    return remarks


def _describe(search: Search, config: Config, folder: SweepFolder) -> list[str]:
    """The output of a dry run: the space, the objective, trials done and left, and the estimate."""
    lines = [f"{key}: {distribution_in_words(distribution)}" for key, distribution in search.space.items()]
    lines.append(f"objective: {search.goal_in_words}, mean over {len(config.seeds)} seeds")
    if search.config.pruner != "none":
        lines.append(f"pruner: {search.config.pruner}")
    trials: list[FrozenTrial] = []
    if (folder.search(search.id) / "search.json").exists() and (folder.root / "queue.json").exists():
        description = {**folder.read_queue(), "storage": config.storage}
        with (
            Process(folder, "status") as process,
            closing(TrialQueue(folder, process, description, search.id)) as queue,
        ):
            trials = list(latest(queue.trials()).values())
    n_done = sum(trial.state.is_finished() for trial in trials)
    n_left = max(0, search.config.n_trials - n_done)
    n_runs = len(config.regimes) * len(config.seeds)
    lines.append(f"search {search.id}: {n_done} trials done, {n_left} left, of {n_runs} runs each")
    if best := best_text(trials, search):
        lines.append(f"best: {best}")
    seconds = [t.duration.total_seconds() for t in trials if t.duration and t.values]
    n_workers = n_workers_of(config)
    if not n_left:
        return [*lines, "nothing to run"]
    if not seconds:
        return [*lines, "time: unknown until a first trial is finished"]
    left = duration(sum(seconds) / len(seconds) * n_left / min(n_workers, n_left))
    return [*lines, f"time: about {left} with {n_workers} workers"]
