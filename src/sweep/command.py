"""The whole of a sweep's command: cells, what they lack, workers on it, and the results at the end."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict
from rich.console import Console

from src.config import is_search
from src.sweep.engine import Engine, load_engine
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell, expand_line
from src.sweep.grid.line import CommandLine
from src.sweep.grid.plan import Plan, describe, plan_sweep
from src.sweep.processes import Process


def run_sweep(
    arguments: list[str],
    loader: ConfigLoader,
    *,
    engine_name: str,
    config_name: str = "config",
    hydra: Sequence[str] = (),
) -> None:
    """The whole of a sweep's command, for the overrides `arguments`; `hydra`: the overrides of Hydra's own settings.

    Exits with 1 when a cell failed and with 130 when interrupted; raises ConfigError before anything runs.
    """

    def compose(overrides: list[str], *, resolve: bool) -> Mapping[str, Any]:
        composed = loader.load_configuration(config_name, [*hydra, *overrides], RunMode.RUN, from_shell=False)
        with open_dict(composed):
            del composed["hydra"]
        return cast(Mapping[str, Any], OmegaConf.to_container(composed, resolve=resolve))

    engine = load_engine(engine_name)
    line = CommandLine(arguments, functools.partial(compose, resolve=True), loader)
    if is_search(line.first):
        from src.sweep.search_command import (
            run_search,  # loads Optuna, which a command with nothing to run does without
        )

        if line.follows:  # a sampled value
            line = CommandLine(arguments, functools.partial(compose, resolve=False), loader, resolved=False)
        failures, logs = run_search(line, engine, engine_name)
    else:
        failures, logs = _run_grid(expand_line(line), engine, engine_name)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if failures:
        print(f"logs: {logs}; the same command tries again what has no result", file=sys.stderr)
        sys.exit(1)


def _run_grid(cells: list[Cell], engine: Engine, engine_name: str) -> tuple[list[str], Path]:
    """Runs what the cells lack and says how they came out; returns a line for each that failed, and where the logs are."""
    plan = plan_sweep(cells, engine)
    config = plan.config
    folder = SweepFolder(Path(config.multirun), config.sweep)
    if config.dry_run:
        from src.sweep.workers.local import n_workers_of

        print("\n".join(describe(plan, folder.root / "cells", n_workers_of(config))))
        return [], folder.logs
    if plan.missing and config.launcher.detached:
        failures = run_cells(plan, folder, engine, engine_name)
    else:
        from src.sweep.summary import report

        cells = list(plan.resolved.values())
        with engine.session(cells) as session:
            failures = run_cells(plan, folder, engine, engine_name, session.verdict)
            session.finish(cells, report)
    described = [
        f"cell {cell_hash} ({' '.join(f'{key}={value}' for key, value in plan.cells[cell_hash].axes.items())}): {reason}"
        for cell_hash, reason in failures.items()
    ]
    return described, folder.logs


def run_cells(
    plan: Plan,
    folder: SweepFolder,
    engine: Engine,
    engine_name: str,
    verdict: Callable[[str], str | None] | None = None,
) -> dict[str, str]:
    """Runs what the plan lacks; returns why cells failed, by hash. `verdict`: who wins a cell, for the running count.

    Where the launcher is detached, the cells are only left to its workers.
    """
    if not plan.missing:
        with Process(folder, "sweep"):  # removes the entries of processes that were killed at the very end
            return {}
    from src.sweep.supervisor import (
        GridSupervisor,
        report_detached,
    )  # imports Optuna, which a finished grid does not need
    from src.sweep.workers.launch import workers_for

    console = Console(stderr=True)
    workers = workers_for(folder, plan.config, engine_name)
    supervisor = GridSupervisor(plan, folder, engine, workers, console, verdict)
    failures = supervisor.run()
    if supervisor.detached:
        report_detached(plan.config, console)
        return {}
    for cell_hash in plan.missing:
        if cell_hash not in failures and (lacking := plan.resolved[cell_hash].missing_runs()):
            failures[cell_hash] = f"{len(lacking)} runs have no result, though their worker reported none as failed"
    return failures
