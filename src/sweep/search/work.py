"""The work of a search's command: its trials up to `n_trials`, of which those not chosen yet count as waiting."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import product

from optuna.distributions import BaseDistribution, FloatDistribution, distribution_to_json
from optuna.trial import FrozenTrial

from src.cells.resolve import ResolvedCell
from src.config import SearchConfig, parse_objective
from src.config.composing import typed_value
from src.config.parse import AUTO
from src.config.search import SEARCH_KEYS, check_pruner
from src.config.space import Space, distribution_in_words, distribution_of
from src.errors import ConfigError
from src.io import digest
from src.progress import SweepProgress, duration
from src.sweep.engine import Engine, Report
from src.sweep.grid.cells import CommandLine, is_run_key, refuse_tuned_axes, with_runs
from src.sweep.grid.plan import default_name, plan_sweep
from src.sweep.processes import Process
from src.sweep.queue.queue import WorkQueue
from src.sweep.search.search import STRATEGIES, Search, cell_at, corners, resolved
from src.sweep.search.summary import report_search
from src.sweep.search.trials import Searched, TrialQueue, best_text
from src.sweep.work import Trials, Work
from src.typed import build


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
        self.folder.write_queue(self.config.storage)
        return TrialQueue(self.folder, process, self.search_id)

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
        """The trials of earlier commands in this storage; changes nothing."""
        folder, search_id = self.folder, self.search_id
        if not (folder.search(search_id) / "search.json").exists() or not (folder.root / "queue.json").exists():
            return {}
        if folder.read_queue()["storage"] != self.config.storage:
            return {}
        with Process(folder, "status") as process, closing(TrialQueue(folder, process, search_id)) as queue:
            return queue.latest()


def make_search(line: CommandLine, engine: Engine) -> tuple[Search, ResolvedCell, list[str]]:
    """The search of a command line, its first valid corner, and the error of each invalid corner.

    ``${...}`` is unresolved in the command line. Raises ConfigError if the space, the objective or every corner is
    invalid.
    """
    space = space_of(line)
    raw = {choices: with_runs(line, choices) for choices in product(*(list(line.choices(key)) for key in line.groups))}
    settings = resolved(next(iter(raw.values())))
    search = build(SearchConfig, settings["search"], "search")
    if settings["seeds"] == AUTO:
        raise ConfigError("seeds", AUTO, f"is for a grid; search={search.name} needs a number of seeds, e.g. seeds=12")
    found = [resolved(mapping) for mapping in raw.values()]
    sweep = settings["sweep"] or default_name(*([m[group]["name"] for m in found] for group in ("data", "arch")))
    bases = {
        choices: {key: value for key, value in mapping.items() if key not in SEARCH_KEYS} | {"sweep": sweep}
        for choices, mapping in raw.items()
    }
    plans, refused = [], []
    for point in corners(space):
        try:
            plans.append(plan_sweep([cell_at(bases, point)], engine))
        except ConfigError as error:
            refused.append(error)
    if not plans:
        raise _all_invalid(refused[0], space)
    config = plans[0].config
    refuse_tuned_axes(line, config)
    bases = {choices: {**mapping, "storage": config.storage} for choices, mapping in bases.items()}
    objective = parse_objective(settings, config)
    strategy = STRATEGIES[search.name]
    strategy.check(search, objective, space)
    for plan in plans:
        check_pruner(search, objective, plan.config)
    content = {
        "sampler": [search.name, search.seed, *strategy.identity(search)],
        "objective": asdict(objective),
        "space": {key: distribution_to_json(kind) for key, kind in space.items()},
        "corners": [cell_hash for plan in plans for cell_hash in plan.cells],
        "regimes": [regime.label for regime in config.regimes],
        "seeds": config.seeds,
    }
    search_id = f"{search.name}-{digest(content)[:8]}"
    return (
        Search(search_id, search, objective, space, bases),
        next(iter(plans[0].resolved.values())),
        [str(error) for error in refused],
    )


def space_of(line: CommandLine) -> dict[str, BaseDistribution]:
    """The space of a command line. Raises ConfigError for an axis that cannot be searched, or where there is none."""
    space = {}
    for key, override in line.sweeps.items():
        if is_run_key(key):
            if override.is_sweep_override():
                what = "a seed" if key == "seed" else "a regime"
                problem = f"{what} cannot be searched: every trial runs all `regimes` x `seeds`; list them there"
                raise ConfigError(key, typed_value(override), problem)
            continue
        space[key] = distribution_of(key, override)
    if not space:
        example = "'optimizer.lr=tag(log,interval(1e-3,1))'"
        name = line.first["search"]["name"]
        raise ConfigError("search", name, f"has nothing to choose; give an interval or several values, e.g. {example}")
    return space


def _all_invalid(error: ConfigError, space: Space) -> ConfigError:
    """The first corner's error, for a space whose corners are all invalid."""
    if "a whole number" in error.problem and isinstance(space.get(error.key), FloatDistribution):
        problem = f"{error.problem}; write int(interval(low,high)) or range(low,high)"
        error = ConfigError(error.key, error.value, problem)
    return error.adding("every corner of the space is refused")
