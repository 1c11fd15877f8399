"""A sweep's command: reads the grid or the search, runs workers on what is missing, and reports the results."""

from __future__ import annotations

import functools
import gc
import sys

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from src.config import is_search
from src.config.composing import GroupComposer
from src.sweep.engine import Engine, load_engine
from src.sweep.grid.cells import CommandLine, expand, seeding_of
from src.sweep.grid.plan import SweepPlan, is_new, plan_sweep
from src.sweep.notify import Notifier
from src.sweep.processes import Process
from src.sweep.work import GridWork, Work


def run_sweep(arguments: list[str], loader: ConfigLoader, engine: str, hydra: DictConfig) -> None:
    """Runs the sweep of the overrides `arguments`. Exits with 1 if a cell fails and with 130 if interrupted.

    `engine`: the module that runs cells; `hydra`: Hydra's own settings. Raises ConfigError before anything runs.
    """
    settings = {"config_name": hydra.job.config_name, "hydra": hydra.overrides.hydra}
    composer = functools.partial(GroupComposer, loader, **settings)
    line = CommandLine(arguments, composer(), loader)
    work: Work
    if is_search(line.first):
        from src.sweep.search.work import SearchWork  # loads Optuna, which a command with nothing to run does without

        if line.has_interpolation:  # a sampled value
            line = CommandLine(arguments, composer(resolve=False), loader, resolved=False)
        work = SearchWork(line, _loaded(engine))
    else:
        cells = expand(line)
        if is_new(cells) and not cells[0].config.dry_run:
            from src.sweep.workers.local import prepare  # a command with nothing to run does without

            prepare(cells[0].config, engine)
        runner = _loaded(engine)
        plan = plan_sweep(cells, runner)
        if any(cell.config.trainer.compile for cell in plan.unbegun):
            from src.training.compiling import check_pays  # loads torch

            check_pays([(cell.config, cell.streams) for cell in plan.unbegun])
        work = GridWork(plan, runner)
        if (seeding := seeding_of(line)) is not None:
            from src.sweep.seeding import SeedingWork

            work = SeedingWork(plan, runner, seeding)
    work.notifier = Notifier(None if work.config.dry_run else line.notify, work.config.sweep)
    with work.notifier.end() as failures:
        failures += _run(work)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if failures:
        print(f"logs: {work.folder.logs}; the same command tries again what has no result", file=sys.stderr)
        sys.exit(1)


def _loaded(engine: str) -> Engine:
    runner = load_engine(engine)
    gc.freeze()  # modules stay, so no collection has to look at what they hold
    return runner


def _run(work: Work) -> list[str]:
    """Runs and reports the work, or describes it if it is a dry run; returns a line for each failed cell."""
    if work.config.dry_run:
        from src.sweep.workers.local import n_workers_of

        print("\n".join(work.description(n_workers_of(work.config))))
        return []
    work.declare()
    if work.config.launcher.detached and not work.is_finished() and run_work(work) is None:
        print(
            f"the workers continue: python -m src.status sweep={work.config.sweep} shows their progress\n"
            "repeat the command for the table once all cells are done",
            file=sys.stderr,
        )
        return []
    with work.engine.session(work.cells()) as session:
        work.verdict = session.verdict
        failures = run_work(work)
        session.finish(work.cells(), work.report)
    return failures or []


def run_plan(plan: SweepPlan, engine: Engine) -> list[str]:
    """Runs what the cells of a plan lack, without a report; returns a line for each failed cell."""
    return run_work(GridWork(plan, engine)) or []


def run_work(work: Work) -> list[str] | None:
    """Runs workers until the work is done; returns a line for each failed cell, None if detached workers continue."""
    if work.is_finished():
        with Process(work.folder, "sweep"):  # removes the entries of processes that were killed during shutdown
            return []
    from src.sweep.supervisor import LAUNCHERS, Supervisor  # imports Optuna, which a finished grid does not need

    launch = LAUNCHERS[work.config.launcher.name]
    return Supervisor(work, launch(work.folder, work.config, work.engine.__name__, work.search_id)).run()
