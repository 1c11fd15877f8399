"""The command `python -m src.report`: reads a sweep from disk, writes its page, and attaches the page in MLflow."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from src.axes import AxisValue
from src.cli import fail, settings
from src.comparison.pairing import Records, load_records
from src.config import Config, compose
from src.errors import ConfigError
from src.io import read_json_or
from src.progress import tracked
from src.report.maps import MOST_CELLS
from src.report.page import write_report
from src.report.sweep import Sweep
from src.sweep.folder import RECORDED, SweepFolder
from src.sweep.summary import axes_of
from src.tracking.outbox import Deliverer, Outbox
from src.tracking.reports import SweepComparison, SweepReport, write_sweep

SUMMARY = "summary.json"
"""Of the sweep's last command; there is none before the first one has finished."""
RECIPE = (
    "data.",
    "arch.",
    "split.",
    "stopping.",
    "optimizer.",
    "tune.",
    "loss",
    "trainer.precision",
    "trainer.threads",
    "trainer.compile",
)
"""Settings that distinguish cells; others (workers, devices, tracking) only distinguish commands."""


def _prepare() -> None:
    """Loads what draws the networks of a few cells, which takes seconds."""
    import torch

    import src.report.shown_cells  # noqa: F401

    torch.set_num_threads(1)  # the networks are small: threads would wait for each other
    gc.freeze()  # modules stay, so no collection has to look at what they hold


def existing(multirun: Path, name: str) -> SweepFolder:
    """The folder of a sweep. Raises ConfigError if there is no such sweep."""
    folder = SweepFolder(multirun, name)
    if not (folder.root / "cells").is_dir() and not (folder.root / "queue.json").exists():
        raise folder.absent()
    return folder


def read_sweep(multirun: Path, name: str) -> Sweep:
    """Reads a sweep's folder. Raises ConfigError if there is no such sweep."""
    folder = existing(multirun, name)
    configs: dict[str, Config] = {}
    problems = []
    paths = sorted(folder.root.glob("cells/*/cell.yaml"))
    for path in tracked(paths, "read: cells", len(paths)):
        try:
            configs[path.parent.name] = folder.read_cell(path.parent.name)
        except (ConfigError, OSError, ValueError) as error:
            problems.append(f"{path.parent.name}/{path.name}: {error}")
    records = load_records(folder.root).with_axes(_axes(configs))
    recorded = read_json_or(folder.root / RECORDED)
    return Sweep(
        folder=folder.root,
        configs=configs,
        records=records,
        labels=_labels(records, configs, recorded.get("regimes", ())),
        problems=problems,
        command=read_json_or(folder.root / SUMMARY).get("command"),
        baseline=next((config.baseline for config in configs.values()), recorded.get("baseline")),
    )


def _axes(configs: Mapping[str, Config]) -> dict[str, dict[str, AxisValue]]:
    """The axes on which the cells differ: the short ones and further settings of the recipe."""
    axes = axes_of(list(configs.values())) if configs else []
    kept = [{key: value for key, value in one.items() if "." not in key or key.startswith(RECIPE)} for one in axes]
    return dict(zip(configs, kept, strict=True))


def _labels(records: Records, configs: Mapping[str, Config], recorded: Sequence[str]) -> list[str]:
    """The regimes with runs: in the order of the cells' configurations, then those of earlier commands."""
    requested = [*(regime.label for config in configs.values() for regime in config.regimes), *recorded]
    present = sorted({run.regime for run in records.attempted})
    return [label for label in dict.fromkeys([*requested, *present]) if label in present]


def attach(sweep: Sweep) -> None:
    """Attaches the report's files to the sweep's run in MLflow; the next command does if the tracker is unavailable."""
    summary = read_json_or(sweep.folder / SUMMARY)
    recorded = read_json_or(sweep.folder / RECORDED)
    if "artifacts" not in summary or not (sweep.configs or recorded):
        return
    found = [path for path in sorted((sweep.folder / "report").iterdir()) if path.is_file()]
    files = [str(path.relative_to(sweep.folder)) for path in found]
    others = [name for name in summary["artifacts"] if not name.startswith("report/")]
    about = SweepReport(
        sweep=sweep.name,
        note=summary["note"],
        command=summary["command"],
        metrics=summary["metrics"],
        comparison=SweepComparison(**summary["comparison"]) if summary.get("comparison") else None,
        artifacts=[*others, *(name for name in files if not Path(name).name.startswith("."))],
    )
    with Outbox(sweep.folder).transaction(sweep.folder):
        write_sweep(sweep.folder, about)
    configs = iter(sweep.configs.values())
    tracking = (next(configs, None) or compose(recorded["tracking"])).tracking
    Deliverer(sweep.folder, tracking).start().stop()


def main(arguments: Sequence[str]) -> None:
    """Writes the report and prints its path."""
    keys = {"sweep": None, "multirun": "multirun", "paper": "false", "most_cells": str(MOST_CELLS), "plugins": None}
    given = settings(keys, arguments)
    if not re.fullmatch("[1-9][0-9]*", most_cells := str(given["most_cells"])):
        fail(f"most_cells={most_cells}: must be a whole number above 0, e.g. most_cells={MOST_CELLS}")
    if given["sweep"] is None:
        fail("sweep=: is missing; name the sweep to report on, e.g. sweep=digits-mlp")
    multirun, name = Path(str(given["multirun"])), str(given["sweep"])
    existing(multirun, name)
    with ProcessPoolExecutor(1) as drawing:
        drawing.submit(_prepare)  # meanwhile; started from here, it has no copy of the sweep
        sweep = read_sweep(multirun, name)
        gc.freeze()  # nor at the sweep, which stays too
        html, *tables = write_report(sweep, drawing, paper=given["paper"] == "true", most_cells=int(most_cells))
        if not sweep.records.runs:
            print("nothing to report yet: no run of this sweep has a result", file=sys.stderr)
        for problem in sweep.problems:
            print(f"not on the page: {problem}", file=sys.stderr)
        size, files = html.stat().st_size / 2**20, ", ".join(path.name for path in tables) or "no tables"
        print(f"{html} ({size:.1f} MiB), with {files} and plots in the same folder")
    attach(sweep)
