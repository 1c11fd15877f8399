"""Runs one cell: every regime at every seed on the same streams, so that regimes are compared seed by seed.

configuration -> sources -> streams -> plan -> execute -> scores -> result.json: one way, no step back.
"""

from __future__ import annotations

import functools
import gc
import logging
import traceback
from pathlib import Path

import torch

from src.cells.outcome import CellOutcome
from src.cells.resolve import ResolvedCell
from src.cells.tuning import tuned_regimes
from src.cells.write import record_failure, write_runs
from src.comparison.metrics import Score, score_of
from src.comparison.pairing import records_in
from src.comparison.verdicts import judge
from src.config import Objective
from src.environment import rank_of_process
from src.errors import ConfigError, one_line
from src.training.control import NO_CONTROL, RunControl
from src.training.devices import Device, device_of, join_world
from src.training.plan import StagePlan, make_plan
from src.training.store.store import Store

log = logging.getLogger(__name__)


def load() -> None:
    """Imports what `run_cell` needs; Lightning takes seconds."""
    import src.training.execute  # noqa: F401


def run_cell(cell: ResolvedCell, control: RunControl = NO_CONTROL) -> CellOutcome:
    """Trains the missing runs of a cell and writes their folders.

    `control` observes the runs. An exception that it raises leaves the cell: trained stages and resume points stay
    in the stage store. Any other exception that concerns no single run is recorded for every missing run and re-raised.
    """
    try:
        return _run(cell, control)
    except ConfigError:  # a mistake in the settings, found before anything is written
        raise
    except Exception as error:
        if rank_of_process(cell.config.trainer.devices).rank == 0:
            control.before_run()
            try:
                record_failure(cell, one_line(error), traceback.format_exc())
            except Exception:
                log.exception("the failure could not be recorded")
        raise


def _run(cell: ResolvedCell, control: RunControl) -> CellOutcome:
    from src.training.execute import execute  # Lightning takes seconds to import

    config = cell.config
    device = device_of(config.trainer)
    join_world(device)
    store = _store(config.multirun, config.trainer.store_gib)
    try:
        plan = _plan(cell, store, device, control)
    except torch.OutOfMemoryError as error:
        return _out_of_memory_outcome(cell, error)
    execution = execute(config, plan, store, device, control)
    if device.rank:
        return CellOutcome(None)
    try:
        folders, failures = write_runs(cell, plan, execution, device, control)
    except torch.OutOfMemoryError as error:  # while scoring: no stage is at fault
        return _out_of_memory_outcome(cell, error)
    return CellOutcome(_value(cell), tuple(failures), execution.out_of_memory, tuple(folders))


def help_cell(cell: ResolvedCell, control: RunControl) -> None:
    """Trains stages of a cell that another worker runs, which reads them from the stage store; writes nothing else.

    `control`: one that `helps`. A failure is the other worker's to meet and to record.
    """
    from src.training.execute import execute

    device, store = device_of(cell.config.trainer), _store(cell.config.multirun, cell.config.trainer.store_gib)
    execute(cell.config, _plan(cell, store, device, control), store, device, control)


def _plan(cell: ResolvedCell, store: Store, device: Device, control: RunControl) -> StagePlan:
    """The plan of the missing runs; tunes their regimes first."""
    from src.training.execute import from_first_rank

    missing = from_first_rank(cell.missing_runs, device)
    streams = {seed: cell.streams.build(seed) for seed in sorted({seed for _, seed in missing})}
    regimes = tuned_regimes(cell, [regime for regime, _ in missing], store, device, control)
    return make_plan(cell.config, streams, [(regimes[regime], seed) for regime, seed in missing])


def _out_of_memory_outcome(cell: ResolvedCell, error: torch.OutOfMemoryError) -> CellOutcome:
    reason = one_line(error)
    record_failure(cell, reason)
    return CellOutcome(None, (reason,), out_of_memory=True)


def score(cell: ResolvedCell, objective: Objective) -> Score:
    """The value of a search's objective, from the results of a cell on disk."""
    return score_of(cell.sweep_dir, cell.hash, cell.config.seeds, objective)


def free_device() -> None:
    """Frees the GPU memory that this process keeps between cells."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()  # the traceback of a failed attempt keeps its tensors in reference cycles
        torch.cuda.empty_cache()


@functools.lru_cache(maxsize=4)
def _store(multirun: str, limit_gib: float) -> Store:
    """The stage store of this process, which registers the process there as alive."""
    return Store(Path(multirun) / ".stages", limit_gib)


def _value(cell: ResolvedCell) -> float | None:
    """Mean paired difference of the first two regimes in accuracy on the union; None if undefined."""
    first_two, seeds = cell.config.regimes[:2], cell.config.seeds
    if len(first_two) < 2:
        return None
    records = records_in(cell.run_folder(regime, seed) for regime in first_two for seed in seeds)
    verdicts = judge(records, [regime.label for regime in first_two])
    return verdicts[0].difference if verdicts else None
