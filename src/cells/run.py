"""One cell: every regime at every seed on the same streams, so that regimes can be compared seed by seed.

config -> sources -> streams -> plan -> execute -> scores -> result.json, one way, no step back.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from src.comparison.objective import Score, score_of
from src.comparison.pairing import load_records
from src.comparison.verdicts import judge
from src.config import Config, Objective, cell_hash, run_hash
from src.data.source import Source
from src.data.sources.base import SourceConfig
from src.data.split import StreamFactory, load
from src.errors import ConfigError
from src.regimes.config import RegimeConfig
from src.sweep.folder import Dumper, plain, to_mapping
from src.sweep.summary import Session
from src.tracking.outbox import Outbox
from src.tracking.record import mask
from src.training.compatibility import check_regimes
from src.training.control import OnProgress, ProgressReport, RunControl
from src.training.devices import Device, device_of, fingerprint, join_world
from src.training.plan import Run, StagePlan, make_plan
from src.training.records import (
    ScoreBook,
    head,
    history_of,
    provenance_of,
    result_of,
    score_all,
    write_failure,
    write_run,
)
from src.training.store.store import Store

if TYPE_CHECKING:
    from src.training.execute import Execution


log = logging.getLogger(__name__)

WRITERS = 8
"""Folders of runs that are written at the same time."""


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell. `folders`: runs that were written now; `failures`: one line for each run that raised or
    diverged; `value`: the mean paired difference of the first two regimes on the union's accuracy (None: undefined);
    `out_of_memory`: whether one of the failures is for want of the device's memory."""

    folders: tuple[Path, ...]
    failures: tuple[str, ...]
    value: float | None
    out_of_memory: bool = False


@functools.lru_cache(maxsize=4)
def _loaded(data: SourceConfig) -> dict[object, Source]:
    """Sources that the cells of this process share."""
    del data
    return {}


@functools.lru_cache(maxsize=4)
def _store(multirun: str, limit_gib: float) -> Store:
    """The stage store of this process, which shows there that it lives."""
    return Store(Path(multirun) / ".stages", limit_gib)


def streams_of(config: Config) -> StreamFactory:
    """The sources of the cell and the streams they give; everything about data that can be wrong is refused here."""
    return load(config.data, config.split, Path(config.multirun) / ".cache", _loaded(config.data))


def settled(config: Config) -> Config:
    """The configuration with what only the data can say filled in: the sizes and class balance of the user's own sets."""
    return replace(config, split=streams_of(config).split)


def cell_dir(config: Config) -> Path:
    """``multirun/<sweep>/cells/<hash>``, by the content of recipe and data."""
    factory = streams_of(config)
    config = settled(config)
    config.arch.validate(factory.source.bank.input_shape, factory.n_outputs)
    check_regimes(config, factory.source, factory.n_outputs)
    return Path(config.multirun) / config.sweep / "cells" / cell_hash(config, factory.digest)


def run_dir(cell: Path, regime: RegimeConfig, seed: int) -> Path:
    """The folder of one run."""
    return cell / f"{regime.label}-{seed}"


def missing_runs(config: Config) -> list[tuple[RegimeConfig, int]]:
    """The runs of regimes x seeds that have no result on disk."""
    cell = cell_dir(config)
    wanted = [(regime, seed) for regime in config.regimes for seed in config.seeds]
    return [(regime, seed) for regime, seed in wanted if not (run_dir(cell, regime, seed) / "result.json").exists()]


def session(cells: Mapping[str, Config]) -> Session:
    """What a command says of its cells, given by their hashes; to be entered before anything runs, in the parent."""
    sweep_dir = cell_dir(next(iter(cells.values()))).parent.parent
    words = mask(" ".join(["python -m src.sweep", *map(shlex.quote, sys.argv[1:])]))
    return Session(sweep_dir, cells, words, settled)


def score(config: Config, objective: Objective) -> Score:
    """What the results of a cell are worth to a search."""
    cell = cell_dir(config)
    return score_of(cell.parent.parent, cell.name, config.seeds, objective)


def _noting_what_raised(run: Callable[..., CellOutcome]) -> Callable[..., CellOutcome]:
    """Around `run_cell`: an exception that is no single run's is noted for every run that is missing, and goes on."""

    @functools.wraps(run)
    def noting(config: Config, **calls: Callable[..., None] | None) -> CellOutcome:
        try:
            return run(config, **calls)
        except ConfigError:  # the user's mistake, refused before anything is written
            raise
        except Exception as error:
            if int(os.environ.get("RANK", "0")) == 0:
                try:
                    record_failure(config, " ".join(f"{type(error).__name__}: {error}".split()), traceback.format_exc())
                except Exception:
                    log.exception("the failure could not be noted")
            raise

    return noting


class _Hooks(RunControl):
    """A control made of functions."""

    def __init__(
        self,
        on_run: Callable[[Path], None] | None,
        on_stage: Callable[[], None] | None,
        on_progress: OnProgress | None,
    ) -> None:
        self._on_run, self._on_stage, self._on_progress = on_run, on_stage, on_progress
        self.wants_progress = on_progress is not None

    def on_run(self, folder: Path) -> None:
        if self._on_run is not None:
            self._on_run(folder)

    def on_stage(self) -> None:
        if self._on_stage is not None:
            self._on_stage()

    def on_progress(self, reports: Sequence[ProgressReport]) -> None:
        if self._on_progress is not None:
            self._on_progress(reports)


@_noting_what_raised
def run_cell(
    config: Config,
    *,
    on_run: Callable[[Path], None] | None = None,
    on_stage: Callable[[], None] | None = None,
    on_progress: OnProgress | None = None,
) -> CellOutcome:
    """Trains what is missing and writes each run's folder; `on_run` is called with it once its result.json is there.

    `on_stage` is called before every group of stages and while it trains, `on_progress` (see `Engine.run_cell`) while the last
    stages train; what they raise leaves the cell. Trained stages stay in the store, and how far the others have come.
    """
    config = settled(config)
    from src.training.execute import execute, from_first_rank  # Lightning takes seconds to import: not before it must

    place = device_of(config.trainer)
    join_world(place)
    missing = from_first_rank(lambda: missing_runs(config), place)
    factory = streams_of(config)
    streams = {seed: factory.build(seed) for seed in sorted({seed for _, seed in missing})}
    plan = make_plan(config, streams, missing)
    control = _Hooks(on_run, on_stage, on_progress)
    execution = execute(config, plan, _store(config.multirun, config.trainer.store_gib), place, control)
    if place.rank:
        return CellOutcome((), (), None)
    try:
        folders, failures = _write(config, plan, execution, place, control)
    except torch.OutOfMemoryError as error:  # while scoring: no stage is at fault
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        record_failure(config, reason)
        return CellOutcome((), (reason,), None, out_of_memory=True)
    return CellOutcome(tuple(folders), tuple(failures), _value(config), execution.out_of_memory)


def free_device() -> None:
    """Frees the memory that this process keeps on its GPU between cells."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()  # a failed attempt's tensors hang in cycles of its traceback
        torch.cuda.empty_cache()


def record_failure(config: Config, reason: str, trace: str | None = None) -> None:
    """Notes the reason (and the traceback) for every missing run of a cell."""
    config = settled(config)
    cell = cell_dir(config)
    for regime, seed in missing_runs(config):
        _fail(config, cell, regime, seed, reason, trace or reason)


def _write(
    config: Config, plan: StagePlan, execution: Execution, place: Device, control: RunControl
) -> tuple[list[Path], list[str]]:
    """The folders of all runs of the plan, seed by seed; a stage is charged to the first run that it was trained for."""
    cell = cell_dir(config)
    outbox = Outbox(cell.parent.parent)
    failures = []
    charged: set[str] = set()
    book = score_all(config, plan, execution, place)
    folders: list[Path] = []
    writing: list[tuple[Run, Path, Future[None]]] = []

    def write(folder: Path, body: Mapping[str, object], history: Mapping[str, list[Any]], text: str) -> None:
        with outbox.telling(folder):
            write_run(folder, body, history, text)

    def finish() -> None:
        for run, folder, written in writing:
            try:
                written.result()
            except OSError as error:  # of this run's folder; the others can be written
                reason = f"{type(error).__name__}: {error}"
                _fail(config, cell, run.regime, run.seed, reason, traceback.format_exc())
                failures.append(f"{run.regime.label}-{run.seed}: {reason}")
                continue
            folders.append(folder)
            control.on_run(folder)
        writing.clear()

    # every file is on the disk before the next step relies on it; a disk takes many such waits together as fast as one
    with ThreadPoolExecutor(WRITERS) as writers:
        for run in sorted(plan.runs, key=lambda run: run.seed):
            folder = run_dir(cell, run.regime, run.seed)
            failure = next((execution.failures[key] for key in run.stages if key in execution.failures), None)
            if failure is not None:
                _fail(config, cell, run.regime, run.seed, *failure)
                failures.append(f"{run.regime.label}-{run.seed}: {failure[0]}")
                continue
            mine = {key for key in run.stages if key in execution.trained} - charged
            charged |= mine
            body = _body(config, cell, plan, run, execution, book, mine, fingerprint(place))
            done = [key for key in run.stages if key in execution.results]
            history = history_of([plan.nodes[key] for key in done], [execution.results[key] for key in done])
            if body["status"] == "diverged":
                failures.append(f"{run.regime.label}-{run.seed}: diverged, its loss is not finite")
            text = resolved(config, run.regime, run.seed)
            writing.append((run, folder, writers.submit(write, folder, body, history, text)))
            if len(writing) == WRITERS:
                finish()
        finish()
    return folders, failures


def _body(
    config: Config,
    cell: Path,
    plan: StagePlan,
    run: Run,
    execution: Execution,
    book: ScoreBook,
    mine: set[str],
    made_on: str,
) -> Mapping[str, object]:
    diverged = any(execution.diverged(key) for key in run.stages)
    return {
        **head(config, cell.name, run_hash(cell.name, run.regime, run.seed), run.regime, run.seed),
        "status": "diverged" if diverged else "finished",
        "result": result_of(config, plan, run, execution, book),
        "provenance": provenance_of(run, execution, mine, made_on),
    }


def _fail(config: Config, cell: Path, regime: RegimeConfig, seed: int, error: str, trace: str) -> None:
    """Notes on disk and for MLflow why a run has no result; where that cannot be written, only in the log."""
    folder = run_dir(cell, regime, seed)
    try:
        with Outbox(cell.parent.parent).telling(folder):
            write_failure(
                folder, head(config, cell.name, run_hash(cell.name, regime, seed), regime, seed), error, trace
            )
    except OSError as problem:
        log.warning("%s failed (%s), which cannot be noted there: %s", folder, error, problem)


def resolved(config: Config, regime: RegimeConfig, seed: int) -> str:
    """The run's whole configuration as YAML, from which `parse` makes the same run again."""
    entry = {"name": regime.name, **dict(regime.knobs)}
    mine = plain({"regime": entry, "seed": seed, "regimes": [entry], "seeds": [seed]})
    return _shared_text(config) + yaml.dump(mine, Dumper=Dumper, sort_keys=False)


@functools.lru_cache(maxsize=1)
def _shared_text(config: Config) -> str:
    """What the configurations of a cell's runs share: writing it takes longer than all else of a run's folder."""
    mapping = to_mapping(config)
    shared = {key: mapping[key] for key in mapping if key not in ("regime", "seed", "regimes", "seeds")}
    return yaml.dump(shared, Dumper=Dumper, sort_keys=False)


def _value(config: Config) -> float | None:
    if len(config.regimes) < 2:
        return None
    cell = cell_dir(config)
    records = load_records(cell.parent.parent, cells=[cell.name], seeds=config.seeds)
    verdicts = judge(records, [regime.label for regime in config.regimes[:2]])
    return verdicts[0].difference if verdicts else None
