"""The command of a search: its points as they are chosen, workers on them, and the best of them at the end."""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from src.config import Config, Objective
from src.errors import ConfigError
from src.sweep.command import say_left_alone
from src.sweep.engine import Engine
from src.sweep.folder import SweepFolder
from src.sweep.grid.line import CommandLine
from src.sweep.processes import Member
from src.sweep.progress import Standing, duration
from src.sweep.queue.queue import WorkQueue
from src.sweep.search.search import Search, make_search
from src.sweep.search.space import distribution_in_words
from src.sweep.search.trials import TrialQueue, best_first, latest
from src.sweep.supervisor import Watch
from src.sweep.workers.local import Workers, n_workers_of, workers_for


@dataclass(frozen=True)
class Searched:
    """What a search has found: its trials, one for each point, in the order of the points; `folder` is its own."""

    search: Search
    trials: Sequence[FrozenTrial]
    folder: Path


def run_search(line: CommandLine, engine: Engine, engine_name: str) -> tuple[list[str], Path]:
    """Goes on with the search up to its `n_trials`; returns a line for each point that failed, and where the logs are.

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
    watch = TrialsWatch(search, config, folder, engine, engine_name, workers_for(folder, config, search.id), console)
    if config.launcher.detached:
        watch.run()
        if watch.left_alone:
            say_left_alone(config, console)
            return [], folder.logs
    with engine.session([first]) as session:
        failures = watch.run()
        from src.sweep.search.summary import report_search

        searched = Searched(search, watch.trials, folder.search(search.id))
        session.finish([engine.resolve(one) for one in watch.cells()], functools.partial(report_search, searched))
    return [f"trial {point} {reason}" for point, reason in failures.items()], folder.logs


class TrialsWatch(Watch):
    """The points of a search, by their numbers; those not chosen yet wait."""

    def __init__(
        self,
        search: Search,
        config: Config,
        folder: SweepFolder,
        engine: Engine,
        engine_name: str,
        workers: Workers,
        console: Console,
    ) -> None:
        super().__init__(folder, engine, workers, console)
        self._search, self._config, self._engine_name = search, config, engine_name
        self.trials: list[FrozenTrial] = []
        """One for each point, in the order of the points."""

    def open(self, member: Member) -> WorkQueue:
        about = self._folder.write_queue(self._config.storage, self._engine_name)
        return TrialQueue(self._folder, member, about, self._search.id)

    def fill(self, queue: WorkQueue, *, alone: bool) -> None:
        assert isinstance(queue, TrialQueue)
        if alone:
            queue.try_failed_again()
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

    def standing(self, states: Mapping[str, str]) -> Standing:
        counts = Counter(states.values())
        n = max(len(states), self._search.config.n_trials)
        n_done = counts["COMPLETE"] + counts["PRUNED"] + counts["FAIL"]
        return TrialsStanding(
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
        """The cells of the points that were not refused, each once."""
        valid = {trial.user_attrs["cell"]: trial for trial in self.trials if "cell" in trial.user_attrs}
        return [self._search.cell(trial.params).config for trial in valid.values()]


@dataclass(frozen=True)
class TrialsStanding(Standing):
    """How far a search is; its cells and runs are its trials."""

    n_pruned: int = 0
    best: str | None = None

    def line(self, eta_seconds: float | None) -> str:
        parts = [f"trials {self.n_cells_done}/{self.n_cells}"]
        counts = {"running": self.n_running, "pruned": self.n_pruned, "failed": self.n_failed}
        parts += [f"{name} {count}" for name, count in counts.items() if count]
        if eta_seconds is not None and self.n_cells_done < self.n_cells:
            parts.append(f"left {duration(eta_seconds)}")
        return " | ".join([*parts, f"best {self.best}"] if self.best else parts)


def best_text(trials: Sequence[FrozenTrial], search: Search) -> str | None:
    """The best value so far and its point."""
    best = best_first(trials, search)
    return f"{best[0].values[0]:.4g} at {axes_text(best[0])}" if best else None


def in_words(objective: Objective) -> str:
    """``maximize sequential/val/union/accuracy``."""
    return f"{objective.direction.replace('_absolute', ' the absolute')} {objective.text}"


def axes_text(trial: FrozenTrial) -> str:
    """The trial's point."""
    return " ".join(f"{key}={value}" for key, value in trial.params.items())


def _check_sampler(search: Search) -> None:
    for package in ("torch", "scipy") if search.config.name == "gp" else ():
        if importlib.util.find_spec(package) is None:
            raise ConfigError("search", "gp", f"needs the package {package}; install it, or take search=tpe")


def _remarks(search: Search, config: Config, refused: Sequence[str]) -> list[str]:
    remarks = []
    if refused:
        others = f" (and {len(refused) - 1} more corners)" if len(refused) > 1 else ""
        remarks.append(f"part of the space is refused, and its trials are pruned: {refused[0]}{others}")
    unread = [regime.label for regime in config.regimes if regime.label not in search.objective.of]
    if unread:
        wanted = ",".join(search.objective.of)
        remarks.append(
            f"{', '.join(unread)}: trained, though the objective does not read it (regimes=[{wanted}] saves it)"
        )
    return remarks


def _describe(search: Search, config: Config, folder: SweepFolder) -> list[str]:
    """What a dry run prints: the space, the objective, and what is done of it."""
    lines = [f"{key}: {distribution_in_words(distribution)}" for key, distribution in search.space.items()]
    lines.append(f"objective: {in_words(search.objective)}, mean over {len(config.seeds)} seeds")
    if search.config.pruner != "none":
        lines.append(f"pruner: {search.config.pruner}")
    trials: list[FrozenTrial] = []
    if (folder.search(search.id) / "search.json").exists() and (folder.root / "queue.json").exists():
        with Member(folder, "status") as member:
            queue = TrialQueue(folder, member, {**folder.read_queue(), "storage": config.storage}, search.id)
            trials = list(latest(queue.trials()).values())
            queue.close()
    n_done = sum(trial.state.is_finished() for trial in trials)
    n_left = max(0, search.config.n_trials - n_done)
    n_runs = len(config.regimes) * len(config.seeds)
    lines.append(f"search {search.id}: {n_done} trials done, {n_left} left, of {n_runs} runs each")
    if best := best_text(trials, search):
        lines.append(f"best: {best}")
    seconds = [t.duration.total_seconds() for t in trials if t.duration and "worker" in t.user_attrs and t.values]
    n_workers = n_workers_of(config)
    if not n_left:
        lines.append("nothing to run")
    elif not seconds:
        lines.append("time: unknown until a first trial is finished")
    else:
        left = duration(sum(seconds) / len(seconds) * n_left / min(n_workers, n_left))
        lines.append(f"time: about {left} with {n_workers} workers")
    return lines
