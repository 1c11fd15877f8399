"""The run folders of a cell: results, and failures with their reason."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.cells.resolve import ResolvedCell
from src.config import run_hash
from src.config.serialize import run_text
from src.io import WRITERS, AlreadyWritten
from src.regimes.config import RegimeConfig
from src.tracking.outbox import Outbox
from src.training.control import RunControl
from src.training.devices import Device, fingerprint
from src.training.plan import Run, StagePlan
from src.training.run_files import (
    constant_losses,
    head,
    history_of,
    provenance_of,
    result_of,
    score_all,
    write_failure,
    write_run,
)

if TYPE_CHECKING:
    from src.training.execute import Execution

log = logging.getLogger(__name__)


def write_runs(
    cell: ResolvedCell, plan: StagePlan, execution: Execution, device: Device, control: RunControl
) -> tuple[list[Path], list[str]]:
    """Scores the plan's stages and writes the folder of every run, seed by seed.

    Returns the folders written, and one line for each run that failed or diverged. The seconds of a stage are charged
    to the first run that it was trained for.
    """
    outbox = Outbox(cell.sweep_dir)
    failures: list[str] = []
    charged: set[str] = set()
    scores = score_all(cell.config, plan, execution, device)
    folders: list[Path] = []
    pending: list[tuple[Run, Path, Future[None]]] = []

    def write(folder: Path, body: Mapping[str, object], history: Mapping[str, list[Any]], text: str) -> None:
        with outbox.transaction(folder):
            write_run(folder, body, history, text)

    def fail(run: Run, reason: str, trace: str) -> None:
        _write_failure(cell, run.regime, run.seed, reason, trace)
        failures.append(f"{run.regime.label}-{run.seed}: {reason}")

    def finish() -> None:
        for run, folder, written in pending:
            try:
                written.result()
            except AlreadyWritten:  # written by another worker while this process was suspended
                continue
            except OSError as error:  # concerns this folder alone; the others can be written
                fail(run, f"{type(error).__name__}: {error}", traceback.format_exc())
                continue
            folders.append(folder)
            control.on_run(folder)
        pending.clear()

    # Every file is synced to disk before the next step relies on it.
    with ThreadPoolExecutor(WRITERS) as writers:
        for run in sorted(plan.runs, key=lambda run: run.seed):
            control.before_run()
            failure = next((execution.failures[key] for key in run.stages if key in execution.failures), None)
            if failure is not None:
                fail(run, *failure)
                continue
            own = {key for key in run.stages if key in execution.trained} - charged
            charged |= own
            done = [key for key in run.stages if key in execution.results]
            diverged = scores.diverged(run.stages, execution)
            if diverged:
                failures.append(f"{run.regime.label}-{run.seed}: diverged, its loss is not finite")
            body = {
                **_head(cell, run.regime, run.seed),
                "status": "diverged" if diverged else "finished",
                "result": result_of(cell.config, plan, run, execution, scores),
                "provenance": {
                    **provenance_of(run, execution, own, fingerprint(device)),
                    "constant_loss": constant_losses(cell.config, plan.nodes[run.stages[0]].stream),
                },
            }
            history = history_of([plan.nodes[key] for key in done], [execution.results[key] for key in done])
            text = run_text(cell.config, run.regime, run.seed)
            folder = cell.run_folder(run.regime, run.seed)
            pending.append((run, folder, writers.submit(write, folder, body, history, text)))
            if len(pending) == WRITERS:
                finish()
        finish()
    return folders, failures


def record_failure(cell: ResolvedCell, reason: str, trace: str | None = None) -> None:
    """Writes the reason (and the traceback) for every missing run of a cell."""
    for regime, seed in cell.missing_runs():
        _write_failure(cell, regime, seed, reason, trace or reason)


def _write_failure(cell: ResolvedCell, regime: RegimeConfig, seed: int, reason: str, trace: str) -> None:
    """Writes failed.json and notifies MLflow; if the folder cannot be written, logs the reason instead."""
    folder = cell.run_folder(regime, seed)
    try:
        with Outbox(cell.sweep_dir).transaction(folder):
            write_failure(folder, _head(cell, regime, seed), reason, trace)
    except OSError as problem:
        log.warning("%s failed (%s), and failed.json cannot be written: %s", folder, reason, problem)


def _head(cell: ResolvedCell, regime: RegimeConfig, seed: int) -> dict[str, Any]:
    return head(cell.config, cell.hash, run_hash(cell.hash, regime, seed), regime, seed)
