"""The command `python -m src.export`: finds the runs of a sweep and writes their networks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from src.cells.resolve import resolve
from src.claims.cell import CellRuns, MissingEvidence
from src.cli import fail, settings
from src.comparison.metrics import run_metric
from src.comparison.pairing import RunRecord, load_records
from src.comparison.units import name_of, unit_of
from src.config import Config
from src.errors import ConfigError, did_you_mean
from src.export.package import write_package
from src.export.registry import register
from src.sweep.folder import SweepFolder
from src.training.store.store import Store

KEYS = dict.fromkeys(("sweep", "cell", "regime", "register", "to", "plugins"))
SHOWN = 6
"""Cells that an error lists at most."""


def main(arguments: Sequence[str]) -> None:
    """Exports the runs that the command line names, and prints their folders."""
    given = settings({**KEYS, "seed": "best", "multirun": "multirun"}, arguments)
    if given["sweep"] is None:
        fail("sweep=: is missing; name the sweep that trained the network, e.g. sweep=digits-mlp")
    torch.set_num_threads(1)
    folder = SweepFolder(Path(str(given["multirun"])), str(given["sweep"]))
    cell, config = _cell(folder, given["cell"])
    runs, why = _runs(folder, cell, given["regime"], str(given["seed"]))
    if given["register"] is not None and len(runs) > 1:
        raise ConfigError("seed", given["seed"], "register=NAME takes one network; choose seed=best or a number")
    if given["register"] is not None and config.tracking.name == "off":
        raise ConfigError(
            "register", given["register"], "the sweep has tracking=off; repeat its command with tracking=local"
        )
    resolved = resolve(config)
    of_cell = CellRuns.of(resolved, runs, Store(folder.root.parent / ".stages"))
    root = Path(given["to"]) if given["to"] else folder.root / "export"
    command = shlex.join(["python", "-m", "src.export", *(f"{key}={value}" for key, value in given.items() if value)])
    for run in runs:
        try:
            weights = of_cell.final_weights(run.regime, run.seed)
        except MissingEvidence as error:
            repeat = "repeat the sweep's command with trainer.store_gib=0, which keeps all weights"
            fix = f"delete {run.path.parent} and {repeat}"
            raise ConfigError(
                "seed", run.seed, f"the weights of {run.regime} are not in the stage store; {fix}"
            ) from error
        target = root / f"{cell[:8]}-{run.regime}-{run.seed}".replace("/", "_")
        network = write_package(
            of_cell, run, weights, target, [f"Seed {run.seed}: {why}.", f"Exported by `{command}`."]
        )
        print(target)
        if given["register"] is not None:
            version = register(network, run, target, str(given["register"]), config.tracking, folder.multirun)
            print(f"models:/{given['register']}@champion is version {version}")


def _cell(folder: SweepFolder, wanted: str | None) -> tuple[str, Config]:
    """The hash and the configuration of the one cell whose hash starts with `wanted`."""
    folder.read_queue()  # raises ConfigError if there is no such sweep
    found = sorted(path.parent.name for path in (folder.root / "cells").glob("*/cell.yaml"))
    chosen = [cell for cell in found if cell.startswith(wanted or "")]
    if len(chosen) != 1:
        problem = "is missing" if wanted is None else "is no cell of this sweep" if not chosen else "fits several cells"
        raise ConfigError("cell", wanted or "", f"{problem}; take one of {_listed(folder, found)}")
    return chosen[0], folder.read_cell(chosen[0])


def _listed(folder: SweepFolder, cells: Sequence[str]) -> str:
    shown = [f"{cell[:8]} ({_axes(folder.read_cell(cell))})" for cell in cells[:SHOWN]]
    more = f", ... ({len(cells) - SHOWN} more in table.csv)" if len(cells) > SHOWN else ""
    return ", ".join(shown) + more


def _axes(config: Config) -> str:
    return ", ".join(
        f"{name} {value}" for name, value in config.axes().items() if name in ("ratio", "imbalance", "epochs")
    )


def _runs(folder: SweepFolder, cell: str, regime: str | None, seed: str) -> tuple[list[RunRecord], str]:
    """The runs of a regime to export, and why these seeds."""
    runs = [run for run in load_records(folder.root, cells=[cell]).runs if not run.diverged]
    regimes = sorted({run.regime for run in runs})
    if regime not in regimes:
        problem = f"has no finished run in cell {cell[:8]}; {did_you_mean(str(regime), regimes)}"
        raise ConfigError("regime", regime or "", problem)
    own = {run.seed: run for run in runs if run.regime == regime}
    if seed == "all":
        return list(own.values()), "all seeds are exported"
    if seed != "best":
        if not seed.isdigit() or int(seed) not in own:
            known = ", ".join(map(str, own))
            raise ConfigError("seed", seed, f"{regime} has no such finished run; take best, all or one of {known}")
        return [own[int(seed)]], "chosen by hand"
    kind = "accuracy" if any(run.metric("test/union/accuracy") is not None for run in own.values()) else "loss"
    metric = f"val/union/{kind}"
    scores = {number: value for number, run in own.items() if (value := run_metric(run, f"last/{metric}")) is not None}
    if not scores:
        raise ConfigError("seed", seed, "no run has a validation set to choose by; give seed=all or a number")
    best = (max if unit_of(metric).higher_is_better else min)(scores, key=lambda number: scores[number])
    return [own[best]], f"the best of {len(scores)} by {name_of(metric)}, without a look at test data"
