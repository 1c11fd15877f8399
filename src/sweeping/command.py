"""The whole of a sweep's command: cells, what they lack, workers on it, and the results at the end."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict
from rich.console import Console

from src.config import ConfigError
from src.sweeping.engine import load_engine
from src.sweeping.folder import SweepFolder
from src.sweeping.grid import Cell, expand
from src.sweeping.plan import describe, plan_sweep, without_password


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
    cells = _with_storage(cells)
    engine = load_engine(engine_name)
    plan = plan_sweep(cells, engine)
    config = plan.config
    folder = SweepFolder(Path(config.multirun), config.sweep)
    console = Console(stderr=True)
    if config.dry_run:
        from src.sweeping.launcher import n_processors

        n_workers = n_processors() if config.n_workers == "auto" else config.n_workers
        print("\n".join(describe(plan, folder.root / "cells", n_workers)))
        return
    configs = [cell.config for cell in plan.cells.values()]
    engine.on_start(configs)
    failures: dict[str, str] = {}
    if plan.missing:
        from src.sweeping.launcher import LocalWorkers  # load Optuna, which a command with nothing to run does without
        from src.sweeping.watch import Watch

        workers = LocalWorkers(folder, config.n_workers)
        failures = Watch(plan, folder, engine, engine_name, workers, console).run()
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


def _with_storage(cells: list[Cell]) -> list[Cell]:
    """The cells with their storage checked and its password taken out: it goes to PGPASSWORD, which the workers inherit,
    and to no file or log."""
    tracking_uri = cells[0].config.tracking.uri
    if tracking_uri and without_password(tracking_uri)[1]:
        fix = "give it in MLFLOW_TRACKING_PASSWORD (a server) or PGPASSWORD (a database) instead"
        raise ConfigError(
            "tracking.uri", without_password(tracking_uri)[0], f"has a password, which files would keep; {fix}"
        )
    given = cells[0].config.storage
    if given is None:
        return cells
    storage, password = without_password(given)
    if not storage.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg2://")):
        raise ConfigError("storage", storage, "must be postgresql://user@host/database, sqlite:///file, or null")
    if password is not None:
        os.environ["PGPASSWORD"] = password
    return [dataclasses.replace(cell, config=dataclasses.replace(cell.config, storage=storage)) for cell in cells]
