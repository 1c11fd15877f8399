"""One run: one regime at one seed.   python -m src.train regime=sequential data=digits seed=0

With `trainer.devices` > 1 it restarts itself under torchrun, one process per device. A finished run is
shown, not trained again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from src import cli
from src.environment import rank_of_process, under_torchrun
from src.hydra_words import refuse_of_one_run
from src.terminal import console


def main(composed: DictConfig) -> None:
    """Trains the run or shows the finished one, and delivers it to MLflow."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from src.config import parse

    if problem := refuse_of_one_run(list(HydraConfig.get().overrides.task)):
        cli.fail(problem)
    config = parse(OmegaConf.to_container(composed, resolve=True), single_run=True)  # type: ignore[arg-type]
    config = replace(config, storage=None)  # no queue: config.yaml must not hold its password
    if config.trainer.devices > 1 and not under_torchrun():
        sys.exit(launch(config.trainer.devices, sys.argv[1:]))

    from src.cells.resolve import resolve
    from src.cells.run import run_cell
    from src.tracking.outbox import Deliverer

    cell = resolve(config)
    is_new = bool(cell.missing_runs())
    if config.trainer.compile and not cell.folder.exists():
        from src.training.compiling import check_pays

        check_pays([(cell.config, cell.streams)])
    outcome = run_cell(cell)
    if rank_of_process(config.trainer.devices).rank > 0:
        return
    folder = cell.run_folder(config.regimes[0], config.seeds[0])
    Deliverer(cell.sweep_dir, config.tracking).stop()
    if not (folder / "result.json").exists():
        print(f"failed: {outcome.failures[0]}; the traceback is in {folder / 'failed.json'}", file=sys.stderr)
        sys.exit(1)
    if show(folder, is_new) == "diverged":
        print(f"diverged: its loss is not finite; lower optimizer.lr={config.optimizer.lr:g}", file=sys.stderr)
        sys.exit(1)


def launch(n_devices: int, arguments: list[str]) -> int:
    """Runs the same command once per device under torchrun; returns the exit status."""
    from src.sweep.workers.device_group import torchrun

    return subprocess.call(torchrun(n_devices, "src.train", arguments), env={"OMP_NUM_THREADS": "1", **os.environ})


def show(folder: Path, is_new: bool) -> str:
    """Prints the metrics of a run; returns its status."""
    import json

    from rich.table import Table

    from src.comparison.units import unit_of

    body = json.loads((folder / "result.json").read_text())
    metrics, cost = body["result"]["metrics"], body["result"]["cost"]
    table = Table(title=f"{body['regime']}, seed {body['seed']}: {body['status']}", title_justify="left")
    columns = {
        "accuracy": "accuracy",
        "loss": "loss",
        "balanced_accuracy": "balanced accuracy",
        "ece": "calibration error",
    }
    if "test/union/rmse" in metrics:  # a regression
        columns = {"loss": "loss", "rmse": "RMSE", "r2": "R2"}
    table.add_column("test set")
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for name in dict.fromkeys(key.split("/")[1] for key in metrics if key.startswith("test/")):
        values = [metrics.get(f"test/{name}/{kind}") for kind in columns]
        units = [unit_of(kind) for kind in columns]
        texts = [f"{unit.value(value)} {unit.of_values}".rstrip() for unit, value in zip(units, values, strict=True)]
        table.add_row(name, *("-" if value is None else text for value, text in zip(values, texts, strict=True)))
    terminal = console()
    terminal.print(table)
    forgotten = metrics.get("forgetting")
    unit = unit_of("forgetting")
    shown = "undefined" if forgotten is None else f"{unit.difference(forgotten)} {unit.of_differences}"
    terminal.print(f"forgetting of earlier data sets: {shown}")
    terminal.print(f"{cost['updates']:,} updates, {cost['samples']:,} samples, {cost['flops']:.3g} FLOPs")
    terminal.print(f"{'written to' if is_new else 'finished earlier, in'} {folder}", style="dim", soft_wrap=True)
    return str(body["status"])


if __name__ == "__main__":
    cli.command(lambda: cli.run(main, "train"), started_by_torchrun=True)
