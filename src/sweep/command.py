"""A sweep's command: plans the cells, runs workers on what is missing, and reports the results."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from rich.console import Console

from src.config import is_search
from src.sweep.engine import Engine, load_engine
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell, expand_line
from src.sweep.grid.line import CommandLine, compose_mapping
from src.sweep.grid.plan import Plan, describe, plan_sweep
from src.sweep.processes import Process


def run_sweep(
    arguments: list[str], loader: ConfigLoader, *, engine: str, config_name: str = "config", hydra: Sequence[str] = ()
) -> None:
    """Runs the sweep of the overrides `arguments`. Exits with 1 if a cell fails and with 130 if interrupted.

    `engine`: the module that runs cells; `hydra`: overrides of Hydra's own settings. Raises ConfigError before anything
    runs.
    """
    compose = functools.partial(compose_mapping, loader, config_name=config_name, hydra=hydra)
    line = CommandLine(arguments, compose, loader)
    if is_search(line.first):
        from src.sweep.search_command import (
            run_search,  # loads Optuna, which a command with nothing to run does without
        )

        if line.follows:  # a sampled value
            line = CommandLine(arguments, functools.partial(compose, resolve=False), loader, resolved=False)
        failures, logs = run_search(line, load_engine(engine))
    else:
        failures, logs = _run_grid(expand_line(line), load_engine(engine))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if failures:
        print(f"logs: {logs}; the same command tries again what has no result", file=sys.stderr)
        sys.exit(1)


def _run_grid(cells: list[Cell], engine: Engine) -> tuple[list[str], Path]:
    """Runs the missing cells and reports all; returns a line for each failed cell, and the folder of the logs."""
    plan = plan_sweep(cells, engine)
    config = plan.config
    folder = SweepFolder(Path(config.multirun), config.sweep)
    if config.dry_run:
        from src.sweep.workers.local import n_workers_of

        print("\n".join(describe(plan, folder.root / "cells", n_workers_of(config))))
        return [], folder.logs
    if plan.missing and config.launcher.detached:
        failures = run_cells(plan, folder, engine)
    else:
        from src.sweep.summary import report

        resolved = list(plan.resolved.values())
        with engine.session(resolved) as session:
            failures = run_cells(plan, folder, engine, session.verdict)
            session.finish(resolved, report)
    described = [
        f"cell {cell_hash} ({' '.join(f'{key}={value}' for key, value in plan.cells[cell_hash].axes.items())}): {reason}"
        for cell_hash, reason in failures.items()
    ]
    return described, folder.logs


def run_cells(
    plan: Plan, folder: SweepFolder, engine: Engine, verdict: Callable[[str], str | None] | None = None
) -> dict[str, str]:
    """Runs the missing cells of the plan and returns the reasons of failed cells by hash.

    `verdict`: the winner of a finished cell, for the running count. A detached launcher only starts its workers.
    """
    if not plan.missing:
        with Process(folder, "sweep"):  # removes the entries of processes that were killed during shutdown
            return {}
    # Imports Optuna, which a finished grid does not need.
    from src.sweep.supervisor import GridSupervisor, report_detached
    from src.sweep.workers.launch import workers_for

    console = Console(stderr=True)
    workers = workers_for(folder, plan.config, engine.__name__)
    supervisor = GridSupervisor(plan, folder, engine, workers, console, verdict)
    failures = supervisor.run()
    if supervisor.detached:
        report_detached(plan.config, console)
        return {}
    for cell_hash in plan.missing:
        if cell_hash not in failures and (lacking := plan.resolved[cell_hash].missing_runs()):
            failures[cell_hash] = f"{len(lacking)} runs have no result, though their worker reported none as failed"
    return failures
