"""The whole of a sweep's command: cells, what they lack, workers on it, and the results at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict
from rich.console import Console

from src.sweeping.engine import load_engine
from src.sweeping.folder import SweepFolder
from src.sweeping.grid import expand
from src.sweeping.plan import describe, plan_sweep


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

    def compose(overrides: list[str]) -> Mapping[str, Any]:
        composed = loader.load_configuration(config_name, [*hydra, *overrides], RunMode.RUN, from_shell=False)
        with open_dict(composed):
            del composed["hydra"]
        return cast(Mapping[str, Any], OmegaConf.to_container(composed, resolve=True))

    cells = expand(arguments, compose, loader)
    engine = load_engine(engine_name)
    plan = plan_sweep(cells, engine)
    config = plan.config
    folder = SweepFolder(Path(config.multirun), config.sweep)
    console = Console(stderr=True)
    if config.dry_run:
        from src.sweeping.launcher import n_workers_of

        print("\n".join(describe(plan, folder.root / "cells", n_workers_of(config))))
        return
    configs = [cell.config for cell in plan.cells.values()]
    workers = None
    if plan.missing:
        from src.sweeping.launcher import workers_for  # loads Optuna, which a command with nothing to run does without

        workers = workers_for(folder, config)
    if workers is None or not workers.detached:
        engine.on_start(configs)
    failures: dict[str, str] = {}
    if workers is not None:
        from src.sweeping.watch import Watch

        failures = Watch(plan, folder, engine, engine_name, workers, console).run()
        if workers.detached:
            console.print(f"left to its workers: python -m src.status sweep={config.sweep} shows how far they are")
            console.print("the same command goes on, and gives the table when all is done", soft_wrap=True)
            return
        for cell_hash, cell in plan.missing.items():
            if cell_hash not in failures and (lacking := engine.missing_runs(cell.config)):
                failures[cell_hash] = f"{len(lacking)} runs have no result, though their worker reported none as failed"
    engine.on_finish(configs)
    for cell_hash, reason in failures.items():
        axes = " ".join(f"{key}={value}" for key, value in plan.cells[cell_hash].axes.items())
        print(f"failed: cell {cell_hash} ({axes}): {reason}", file=sys.stderr)
    if failures:
        print(f"logs: {folder.logs}; the same command tries again what has no result", file=sys.stderr)
        sys.exit(1)
