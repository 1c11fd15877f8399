"""The work queue of a sweep: an Optuna study whose WAITING trials are the cells to run.

The lock file of a cell decides who runs it: only the holder of the lock changes the state of the cell's trials, and the
operating system releases it when the holder dies. The results on disk say what is missing, never the study: a lost
study costs nothing, since the same command fills it again.
"""

from __future__ import annotations

import functools
import math
import os
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.cells.outcome import CellOutcome
from src.config import Config
from src.errors import ConfigError
from src.io import read_text_or, write_atomically
from src.locks import locked, try_lock
from src.sweep.folder import GRID, SweepFolder
from src.sweep.grid.cells import Cell, covers, with_runs_of
from src.sweep.processes import Process
from src.sweep.queue.storage import Direction, Parameters, StudyStore
from src.training.control import OnProgress

MAX_ATTEMPTS = 4
"""A cell whose worker dies is requeued three times."""

DROPPED = "dropped: its command has ended"
"""The reason of a trial that no command waits for."""

STOPPED = "stopped by src.status stop=CELL"
"""The reason of a trial that a user has stopped."""

OPEN = (TrialState.WAITING, TrialState.RUNNING)


@dataclass(frozen=True)
class ClaimedCell:
    """A cell that this worker runs: its trial, as it was queued, and the lock of the cell."""

    trial: FrozenTrial
    lock: FileLock = field(compare=False, repr=False)

    @property
    def cell(self) -> str:
        """The cell's hash."""
        return str(self.trial.user_attrs["cell"])

    @property
    def whole_gpu(self) -> bool:
        """Whether the cell needs a GPU to itself."""
        return bool(self.trial.user_attrs.get("whole_gpu"))


class WorkQueue:
    """The queue of a sweep's grid, opened by one process; see `StudyStore` for the study and errors."""

    search_id = GRID
    key = "cell"
    """The user attribute of a trial that names its piece of work."""

    def __init__(
        self,
        folder: SweepFolder,
        process: Process,
        *,
        name: str | None = None,
        direction: Direction = "maximize",
        value: str = "first regime minus second",
    ) -> None:
        self._folder, self._process = folder, process
        waits = process.info.role == "worker"  # it joins a sweep that runs; a command may have been given a wrong URL
        self._store = StudyStore(folder, name or folder.sweep, direction, value, waits=waits)
        self.retry = self._store.retry
        """How this process waits for a server that is unavailable."""
        self._waiting: deque[FrozenTrial] = deque()
        self._listed_at = 0
        self._first = ""

    def close(self) -> None:
        """Closes connections to a database."""
        self._store.close()

    # ------------------------------------------------------------------------------------------------ commands

    def parameters(self, cells: Sequence[Cell]) -> Parameters:
        """The parameters of a command's cells; see `enqueue`."""
        return Parameters([cell.axes for cell in cells], self.trials())

    def enqueue(self, cells: Sequence[tuple[str, Cell]], parameters: Parameters, *, alone: bool) -> None:
        """Queues cells with missing runs, by hash, unless an open trial covers them.

        A cell whose folder cannot be written fails at once. `alone`: whether no other command of this sweep is alive,
        so that the runs that a waiting cell lists may be replaced.
        """
        with locked(self._folder.root / "queue.lock"):  # commands that start together queue a cell once
            alone = alone and not self._process.others("sweep")  # another one may have started
            self.retry(lambda: self._enqueue(cells, parameters, alone=alone))

    def _enqueue(self, cells: Sequence[tuple[str, Cell]], parameters: Parameters, *, alone: bool) -> None:
        states = self.states(open_only=True)
        new = []
        for cell_hash, cell in cells:
            state, config = states.get(cell_hash), cell.config
            if state is not None and (state == "RUNNING" or not alone):
                queued = self._folder.read_cell(cell_hash)
                if state == "RUNNING" and covers(queued, config):
                    continue
                config = with_runs_of(config, queued, config)
            trial = {"cell": cell_hash, "axes": {key: str(value) for key, value in cell.axes.items()}}
            try:
                self._folder.write_cell(cell_hash, config)
                self._folder.stop(cell_hash).unlink(missing_ok=True)
            except OSError as error:  # the other cells can run
                trial["reason"] = f"{type(error).__name__}: {error}"
            if state != "WAITING" or "reason" in trial:
                new.append(
                    create_trial(
                        state=TrialState.FAIL if "reason" in trial else TrialState.WAITING,
                        user_attrs=trial,
                        **parameters.of(cell.axes),
                    )
                )
        self._store.add(new)

    def drop_waiting(self, kept: Collection[str]) -> None:
        """Drops cells, except `kept`, that only ended commands wait for; none while another command is alive."""
        with locked(self._folder.root / "queue.lock"):
            if self._process.others("sweep"):
                return
            for trial in self.trials(TrialState.WAITING):
                if (cell := trial.user_attrs["cell"]) not in kept:
                    with suppress(Timeout), self._lock_of(cell):
                        self._store.set(trial.number, TrialState.FAIL, reason=DROPPED)

    # ------------------------------------------------------------------------------------------------ steering

    def stop(self, trial: FrozenTrial) -> bool:
        """Ends a cell as failed: at once if it waits (True), else its worker does."""
        cell: str = trial.user_attrs["cell"]
        write_atomically(self._folder.stop(cell), "")
        with suppress(Timeout), self._lock_of(cell):
            return self._store.set(trial.number, TrialState.FAIL, reason=STOPPED)
        return False

    def is_stopped(self, claim: ClaimedCell) -> bool:
        """Whether a user has asked to stop the cell."""
        return self._folder.stop(claim.cell).exists()

    def put_first(self, trial: FrozenTrial) -> None:
        """The next worker that looks for a cell takes this one."""
        write_atomically(self._folder.first, trial.user_attrs["cell"])

    # ------------------------------------------------------------------------------------------------ workers

    def warm_up(self) -> None:
        """Loads what claiming needs, before the first claim."""

    def claim(self) -> ClaimedCell | None:
        """Claims the first waiting cell that no worker runs; None if there is none.

        Raises ConfigError where the folder is not the one that the sweep's command writes to.
        """
        while True:
            first = read_text_or(self._folder.first)
            if first != self._first:
                self._first = first
                self._waiting.clear()
            is_fresh = not self._waiting
            if is_fresh:
                self._listed_at = self._process.file_time()
                waiting = self.trials(TrialState.WAITING)
                self._waiting.extend(sorted(waiting, key=lambda trial: trial.user_attrs["cell"] != first))
            while self._waiting:
                if claim := self._try_to_claim(self._waiting.popleft()):
                    return claim
            if is_fresh:
                return None

    def _try_to_claim(self, trial: FrozenTrial) -> ClaimedCell | None:
        cell: str = trial.user_attrs["cell"]
        if not self._folder.has_cell(cell):
            problem = f"has no {self._folder.cell(cell)}/cell.yaml, which the queue holds; share the command's folder"
            raise ConfigError("multirun", str(self._folder.multirun), problem)
        lock = self._lock_of(cell)
        with suppress(FileNotFoundError):
            if os.stat(lock.lock_file).st_mtime_ns > self._listed_at:  # claimed since: saves a query
                return None
        if not try_lock(lock):
            return None
        with ExitStack() as unless_started:
            unless_started.callback(lock.release)
            os.utime(lock.lock_file)
            if not self._store.start(trial.number):
                return None
            unless_started.pop_all()
        return ClaimedCell(trial, lock)

    @property
    def has_seen_more(self) -> bool:
        """Whether further cells waited when this process last looked, so that no worker is idle."""
        return bool(self._waiting)

    def running(self) -> list[ClaimedCell]:
        """The cells that workers run and that others may help to train."""
        cells = {trial.user_attrs["cell"]: trial for trial in self.trials(TrialState.RUNNING)}
        return [ClaimedCell(t, self._lock_of(cell)) for cell, t in cells.items() if self._folder.has_cell(cell)]

    def config_of(self, trial: FrozenTrial) -> Config:
        """The config of a trial, with the runs to make."""
        return self._folder.read_cell(trial.user_attrs["cell"])

    def on_progress(self, claim: ClaimedCell) -> OnProgress | None:
        """The hook for progress reports of the claimed cell, which may raise `Pruned`; None if nothing subscribes."""
        return None

    def owns(self, claim: ClaimedCell) -> bool:
        """Whether the claimed cell is still its worker's.

        A file server drops the locks of a host that is silent for minutes, e.g. suspended; another worker then ends the
        trial as stale. While the study's server is unavailable, no other worker takes a cell over.
        """
        return self._store.is_running(claim.trial.number)

    def tell(self, claim: ClaimedCell, outcome: CellOutcome) -> None:
        """Ends the cell by its outcome."""
        if outcome.failures:
            self.fail(claim, shortened(outcome.failures))
        elif outcome.value is None or not math.isfinite(outcome.value):
            self.complete_without_value(claim, "inconclusive")
        else:
            self.complete(claim, outcome.value)

    def complete(self, claim: ClaimedCell, value: float, **attributes: Any) -> bool:
        """Ends the cell with its value; False if the trial has already ended. `attributes`: stored with the trial."""
        assert math.isfinite(value)
        return self._end(claim, TrialState.COMPLETE, value, **attributes)

    def complete_without_value(self, claim: ClaimedCell, reason: str) -> bool:
        """Ends a cell that is inconclusive or not worth finishing; Optuna calls such a trial pruned."""
        return self._end(claim, TrialState.PRUNED, reason=reason)

    def fail(self, claim: ClaimedCell, reason: str) -> bool:
        """Ends the cell as failed; the next command tries it again, since its results are missing."""
        return self._end(claim, TrialState.FAIL, reason=reason)

    def requeue(self, claim: ClaimedCell, *, whole_gpu: bool = False) -> None:
        """Gives the cell back. `whole_gpu`: its next worker needs a GPU to itself."""
        self._waiting.clear()
        self._end(claim, TrialState.WAITING, **({"whole_gpu": True} if whole_gpu else {}))

    def _end(self, claim: ClaimedCell, state: TrialState, value: float | None = None, **attributes: Any) -> bool:
        try:
            return self._store.set(claim.trial.number, state, value, **attributes)
        finally:
            claim.lock.release()

    # ------------------------------------------------------------------------------------------------ dead workers

    def requeue_stale(self, *, reset_attempts: bool = False) -> list[FrozenTrial]:
        """Requeues cells whose workers died; returns the trials of those that died `MAX_ATTEMPTS` times.

        `reset_attempts` counts from 1 again: for a new command.
        """
        failed: dict[int, FrozenTrial] = {}
        for trial in self.trials(TrialState.RUNNING):
            requeue = functools.partial(self._requeue_stale, trial.number, failed, reset_attempts=reset_attempts)
            with suppress(Timeout), self._lock_of(trial.user_attrs["cell"]):
                self.retry(requeue)
        return list(failed.values())

    def _requeue_stale(self, number: int, failed: dict[int, FrozenTrial], *, reset_attempts: bool) -> None:
        """Mutates `failed` so that the result survives a retry after a lost reply. The cell's lock is held."""
        trial = self._store.trial(number)
        if trial.state != TrialState.RUNNING:
            return
        attributes, attempt = trial.user_attrs, trial.user_attrs.get("attempt", 1)
        if attempt >= MAX_ATTEMPTS and not reset_attempts:
            failed[number] = trial
            self._store.set(number, TrialState.FAIL, reason=f"its worker died {attempt} times; out of memory?")
            return
        later = [t.user_attrs for t in self.trials(TrialState.WAITING) if t.number > number]
        if not any(a["cell"] == attributes["cell"] and a.get("point") == attributes.get("point") for a in later):
            copy = create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={**attributes, "attempt": 1 if reset_attempts else attempt + 1},
                system_attrs=trial.system_attrs,
                intermediate_values=trial.intermediate_values,
            )
            self._store.add([copy])
        self._store.set(number, TrialState.FAIL, reason="its worker died; requeued")

    def _lock_of(self, cell_hash: str) -> FileLock:
        """The lock of a cell, which raises Timeout at once where another process holds it."""
        return FileLock(self._folder.cell(cell_hash) / ".lock", blocking=False)

    # ------------------------------------------------------------------------------------------------ state

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in these states (in any, if none is given), oldest first. Not to be modified."""
        return self._store.trials(*states)

    def states(self, *, open_only: bool = False) -> dict[str, str]:
        """The state of each cell's last trial, by hash."""
        return {t.user_attrs["cell"]: t.state.name for t in self.trials(*(OPEN if open_only else ()))}

    def latest(self, trials: Sequence[FrozenTrial] | None = None) -> dict[Any, FrozenTrial]:
        """The last trial of each piece of work, oldest first, of all trials or of `trials`."""
        return {trial.user_attrs[self.key]: trial for trial in (self.trials() if trials is None else trials)}

    def n_waiting(self) -> int:
        """Number of cells that wait for a worker."""
        return len(self.trials(TrialState.WAITING))

    def sample(self) -> Config | None:
        """The config of a cell that has not ended; None if all have."""
        return next((self.config_of(trial) for trial in self.trials(*OPEN)), None)

    def n_ended(self) -> int:
        """Number of trials that have ended."""
        return sum(trial.state.is_finished() for trial in self.trials())


def shortened(failures: Sequence[str]) -> str:
    """The first failure and the number of the others."""
    others = len(failures) - 1
    return failures[0] + (f" (and {others} more)" if others else "")
