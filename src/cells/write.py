"""The run folders of a cell: results, and failures with their reason."""

from __future__ import annotations

import itertools
import logging
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.cells.resolve import ResolvedCell
from src.config import run_hash
from src.config.serialize import run_text
from src.io import WRITERS, AlreadyWritten
from src.regimes.catalog import RegimeConfig
from src.tracking.outbox import Outbox
from src.training.control import RunControl
from src.training.devices import Device, fingerprint
from src.training.plan import Run, StagePlan
from src.training.run_files import (
    StageHistory,
    constant_losses,
    history_of,
    identity,
    provenance_of,
    result_of,
    score_all,
    write_failure,
    write_run,
)
from src.training.scoring import SCORED_AT_ONCE

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
    with _Folders(cell, control) as folders:
        for part in _by_seeds(plan):
            _write_part(cell, part, execution, device, control, folders)
    return folders.written, folders.failures


def _by_seeds(plan: StagePlan) -> Iterator[StagePlan]:
    """The plan seed by seed, in parts of as many stages as are scored at once: while the next part is scored, threads
    write the folders of the one before."""
    runs: list[Run] = []
    keys: set[str] = set()

    def part() -> StagePlan:
        return replace(plan, nodes={key: node for key, node in plan.nodes.items() if key in keys}, runs=tuple(runs))

    for _, group in itertools.groupby(sorted(plan.runs, key=lambda run: run.seed), key=lambda run: run.seed):
        own = list(group)
        more = {key for run in own for key in run.stages}
        if runs and len(keys | more) > SCORED_AT_ONCE:
            yield part()
            runs, keys = [], set()
        runs, keys = [*runs, *own], keys | more
    yield part()


def _write_part(
    cell: ResolvedCell,
    plan: StagePlan,
    execution: Execution,
    device: Device,
    control: RunControl,
    folders: _Folders,
) -> None:
    """Scores some seeds of a plan and writes the folders of their runs."""
    charged: set[str] = set()
    scores = score_all(cell.config, plan, execution, device)
    done = {key: execution.results[key] for key in plan.nodes if key in execution.results}
    histories = {key: StageHistory.of(plan.nodes[key], stage) for key, stage in done.items()}
    constant = constant_losses(cell.config, plan)
    for run in plan.runs:
        control.before_run()
        failure = next((execution.failures[key] for key in run.stages if key in execution.failures), None)
        if failure is not None:
            folders.fail(run, *failure)
            continue
        own = {key for key in run.stages if key in execution.trained} - charged
        charged |= own
        diverged = scores.diverged(run.stages, execution)
        if diverged:
            folders.failures.append(f"{run.regime.label}-{run.seed}: diverged, its loss is not finite")
        body = {
            **_identity(cell, run.regime, run.seed),
            "status": "diverged" if diverged else "finished",
            "result": result_of(cell.config, plan, run, execution, scores),
            "provenance": {
                **provenance_of(run, execution, own, fingerprint(device)),
                "constant_loss": constant[run.seed],
            },
        }
        folders.write(run, body, history_of([histories[key] for key in run.stages if key in histories]))


class _Folders:
    """Writes the folders of runs side by side, and reports them in order; leaving the context waits for the last.

    Every file is synced to disk before the next step relies on it, and a disk syncs several files as fast as one.
    """

    def __init__(self, cell: ResolvedCell, control: RunControl) -> None:
        self.written: list[Path] = []
        self.failures: list[str] = []
        """One line for each run that failed or diverged."""
        self._cell, self._control, self._outbox = cell, control, Outbox(cell.sweep_dir)
        self._writers = ThreadPoolExecutor(WRITERS)
        self._pending: deque[tuple[Run, Path, Future[None]]] = deque()

    def __enter__(self) -> _Folders:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._writers:
            while self._pending and kind is None:
                self._finish_first()

    def write(self, run: Run, body: Mapping[str, object], history: Mapping[str, list[Any]]) -> None:
        """Writes a run's folder, and waits for an earlier one if many are under way."""
        folder = self._cell.run_folder(run.regime, run.seed)
        text = run_text(self._cell.config, run.regime, run.seed)

        def work() -> None:
            with self._outbox.transaction(folder):
                write_run(folder, body, history, text)

        self._pending.append((run, folder, self._writers.submit(work)))
        if len(self._pending) > WRITERS:
            self._finish_first()

    def fail(self, run: Run, reason: str, trace: str) -> None:
        """Records why a run has no result."""
        _write_failure(self._cell, run.regime, run.seed, reason, trace)
        self.failures.append(f"{run.regime.label}-{run.seed}: {reason}")

    def _finish_first(self) -> None:
        run, folder, written = self._pending.popleft()
        try:
            written.result()
        except AlreadyWritten:  # written by another worker while this process was suspended
            return
        except OSError as error:  # concerns this folder alone; the others can be written
            self.fail(run, f"{type(error).__name__}: {error}", traceback.format_exc())
            return
        self.written.append(folder)
        self._control.on_run(folder)


def record_failure(cell: ResolvedCell, reason: str, trace: str | None = None) -> None:
    """Writes the reason (and the traceback) for every missing run of a cell."""
    for regime, seed in cell.missing_runs():
        _write_failure(cell, regime, seed, reason, trace or reason)


def _write_failure(cell: ResolvedCell, regime: RegimeConfig, seed: int, reason: str, trace: str) -> None:
    """Writes failed.json and notifies MLflow; if the folder cannot be written, logs the reason instead."""
    folder = cell.run_folder(regime, seed)
    try:
        with Outbox(cell.sweep_dir).transaction(folder):
            write_failure(folder, _identity(cell, regime, seed), reason, trace)
    except OSError as problem:
        log.warning("%s failed (%s), and failed.json cannot be written: %s", folder, reason, problem)


def _identity(cell: ResolvedCell, regime: RegimeConfig, seed: int) -> dict[str, Any]:
    return identity(cell.config, cell.hash, run_hash(cell.hash, regime, seed), regime, seed)
