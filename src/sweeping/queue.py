"""The sweep's work queue: an Optuna study whose WAITING trials are the cells to run.

A trial carries the cell's hash as a user attribute and its axes as ordinary parameters. What is missing is never read
from here but from the results on disk, so a lost queue costs nothing: the same command fills it again.

Every change of hands happens under one lock (a file's on SQLite, an advisory one on PostgreSQL), and a trial changes
state in one transaction: it is WAITING, RUNNING under a worker, or finished, and can be nothing in between. (SQLite's own
way to wait for its lock sleeps up to 100 ms at a time: four workers then spend most of their time waiting.)
Waiting trials are looked up with one statement, since `Study.ask` loads all of them (89 ms with 300 waiting, against 9).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import text

from src.addresses import with_driver
from src.config import Config, ConfigError
from src.sweeping.axes import Distributions
from src.sweeping.engine import Outcome
from src.sweeping.folder import GRID, SweepFolder
from src.sweeping.grid import Cell, covers, union
from src.sweeping.members import Member

MAX_ATTEMPTS = 4
"""A cell whose worker dies is taken up again 3 times."""

DROPPED = "dropped: its command is gone"
"""The reason of a trial that nobody waits for any more."""

SCHEMA = "sweeps"
"""Where the tables are on PostgreSQL: MLflow, which notes its version in a table of the same name, may be there as well."""

State = Literal["WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL"]


@dataclass(frozen=True)
class Claim:
    """A cell that this worker, and no other, is to run now. `whole_gpu`: it needs its GPU to itself."""

    trial_id: int
    cell: str
    attempt: int
    whole_gpu: bool = False


@dataclass(frozen=True)
class Entry:
    """A trial as the queue sees it. `worker`: the member that runs or ran it; `reason`: why it failed or has no value."""

    trial_id: int
    state: State
    cell: str
    worker: str | None
    attempt: int
    reason: str | None
    whole_gpu: bool = False


class WorkQueue:
    """The queue of one sweep, seen by one member. `storage`: a database URL without password; None: SQLite in the folder.
    `study`, `direction`: of Optuna's study, whose name is the sweep's unless given.

    Raises ConfigError when the storage cannot be reached or serves another folder of the same name.
    """

    def __init__(
        self,
        folder: SweepFolder,
        member: Member,
        storage: str | None,
        folder_id: str,
        *,
        study: str | None = None,
        direction: Literal["maximize", "minimize"] = "maximize",
    ) -> None:
        self._folder, self._member = folder, member
        url = sqlalchemy.engine.make_url(with_driver(storage or f"sqlite:///{(folder.root / 'queue.db').absolute()}"))
        self._is_sqlite = url.get_backend_name() == "sqlite"
        if self._is_sqlite:
            assert url.database is not None
            options: dict[str, Any] = {"creator": functools.partial(_connect_sqlite, url.database)}
            self._file_lock = FileLock(f"{url.database}.lock", poll_interval=0.002)
        else:
            options = {"pool_pre_ping": True, "connect_args": {"options": f"-csearch_path={SCHEMA}"}}
            self._lock_engine = sqlalchemy.create_engine(url, pool_size=1, **options)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            with self._locked() as connection:  # two processes that create the tables at once would collide
                if connection is not None:
                    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
                self._storage = optuna.storages.RDBStorage(url.render_as_string(), engine_kwargs=options)
                self._study = optuna.create_study(
                    storage=self._storage, study_name=study or folder.sweep, direction=direction, load_if_exists=True
                )
                served = self._study.user_attrs.get("folder")
                if served is None:
                    self._study.set_user_attr("folder", folder_id)
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
            problem = " ".join(str(error.__cause__ or error).split())
            shown = url.render_as_string(hide_password=True)
            fix = (
                "delete this file, and the same command fills it again" if self._is_sqlite else "is the server running?"
            )
            raise ConfigError("storage", shown, f"the queue cannot be used ({problem}); {fix}") from error
        if served not in (None, folder_id):
            problem = "this storage already serves a sweep of that name in another folder; choose another name"
            raise ConfigError("sweep", folder.sweep, problem)
        self._study_id = self._study._study_id

    @property
    def name(self) -> str:
        """The id of the search that it serves, or `GRID`."""
        return GRID

    # -------------------------------------------------------------------------------------------- filling it

    def enqueue(
        self, cells: Sequence[tuple[str, Cell]], distributions: Distributions, *, alone: bool
    ) -> dict[str, int]:
        """Queues cells with missing runs, by hash, unless an open trial already covers them; returns the trial of each.

        The trial of a cell whose folder cannot be written has failed when this returns.
        `alone`: no other command of this sweep lives, so that what waits for a dead one need not be kept.
        """
        trials: dict[str, int] = {}
        with self._locked():
            alone = alone and not self._member.others("sweep")  # another one may have come meanwhile
            entries = self.entries("WAITING", "RUNNING")
            waiting = {entry.cell: entry for entry in entries if entry.state == "WAITING"}
            running = {entry.cell: entry for entry in entries if entry.state == "RUNNING"}
            for cell_hash, cell in cells:
                entry = waiting.get(cell_hash)
                config = cell.config
                if entry is None and cell_hash in running:
                    under_way = self._folder.read_cell(cell_hash)
                    if covers(under_way, config):
                        trials[cell_hash] = running[cell_hash].trial_id
                        continue
                    config = _both(under_way, config)
                elif entry is not None and not alone:
                    config = _both(self._folder.read_cell(cell_hash), config)
                problem = None
                try:
                    self._folder.write_cell(cell_hash, config)
                except OSError as error:  # of this cell's folder; the others can run
                    problem = f"{type(error).__name__}: {error}"
                trials[cell_hash] = entry.trial_id if entry is not None else self._add(cell_hash, cell, distributions)
                if problem is not None:
                    self._end(trials[cell_hash], TrialState.FAIL, reason=problem)
        return trials

    def forget(self, kept: Sequence[str]) -> None:
        """Drops what waits for commands that are gone, except the cells `kept`; nothing while another command lives."""
        with self._locked():
            if self._member.others("sweep"):  # under the lock: a command is a member before it queues anything
                return
            for entry in self.entries("WAITING"):
                if entry.cell not in kept:
                    self._end(entry.trial_id, TrialState.FAIL, reason=DROPPED)

    def distributions(self) -> Distributions:
        """The parameters of the trials so far, for `enqueue`."""
        query = (
            "SELECT p.param_name, p.distribution_json FROM trial_params p JOIN trials t ON t.trial_id = p.trial_id "
            "WHERE t.study_id = :study GROUP BY p.param_name, p.distribution_json ORDER BY MAX(p.param_id)"
        )
        with self._storage.engine.connect() as connection:
            rows = connection.execute(text(query), {"study": self._study_id}).all()
        return Distributions({name: optuna.distributions.json_to_distribution(json_text) for name, json_text in rows})

    def _add(self, cell_hash: str, cell: Cell, distributions: Distributions) -> int:
        chosen: Mapping[str, tuple[str | float, BaseDistribution]] = distributions.of(cell.axes)
        trial = create_trial(
            state=TrialState.WAITING,
            params={name: value for name, (value, _) in chosen.items()},
            distributions={name: distribution for name, (_, distribution) in chosen.items()},
            user_attrs={"cell": cell_hash, "axes": {key: str(value) for key, value in cell.axes.items()}, "attempt": 1},
        )
        return self._storage.create_new_trial(self._study_id, trial)

    # -------------------------------------------------------------------------------------------- emptying it

    def warm_up(self) -> None:
        """Loads what claiming takes, before the first claim."""

    def claim(self) -> Claim | None:
        """Takes the first waiting cell that no worker is running; None when there is none."""
        with self._locked():
            return self._take()

    def _take(self) -> Claim | None:
        running = {entry.cell for entry in self.entries("RUNNING")}
        for entry in self.entries("WAITING", limit=len(running) + 1):
            if entry.cell in running:
                continue
            self._storage.set_trial_user_attr(entry.trial_id, "worker", self._member.id)
            claimed = self._storage.set_trial_state_values(entry.trial_id, TrialState.RUNNING)
            assert claimed, "a waiting trial changed hands under the lock"
            return Claim(entry.trial_id, entry.cell, entry.attempt, entry.whole_gpu)
        return None

    def config_of(self, claim: Claim) -> Config:
        """What a claim's worker is to run."""
        return self._folder.read_cell(claim.cell)

    def tell(self, claim: Claim, outcome: Outcome) -> None:
        """Ends the cell as it came out."""
        if outcome.failures:
            self.fail(claim, in_short(outcome.failures))
        elif outcome.value is None or not math.isfinite(outcome.value):
            self.complete_without_value(claim, "inconclusive")
        else:
            self.complete(claim, outcome.value)

    def complete(self, claim: Claim, value: float) -> bool:
        """Ends the cell with its value; False when another worker has already ended it."""
        with self._locked():
            return self._end(claim.trial_id, TrialState.COMPLETE, value=value)

    def complete_without_value(self, claim: Claim, reason: str) -> bool:
        """Ends a cell that is finished and inconclusive; Optuna calls such a trial pruned."""
        with self._locked():
            return self._end(claim.trial_id, TrialState.PRUNED, reason=reason)

    def fail(self, claim: Claim, reason: str) -> bool:
        """Ends the cell as failed; the next command tries it again, since its results are missing."""
        with self._locked():
            return self._end(claim.trial_id, TrialState.FAIL, reason=reason)

    def requeue(self, claim: Claim, *, whole_gpu: bool = False) -> None:
        """Gives a cell back, unless another host took this worker for dead and has it.

        `whole_gpu`: its next worker is to have its GPU to itself.
        """
        with self._locked():
            if any(e.trial_id == claim.trial_id and e.worker == self._member.id for e in self.entries("RUNNING")):
                if whole_gpu:
                    self._storage.set_trial_user_attr(claim.trial_id, "whole_gpu", True)
                self._storage.set_trial_state_values(claim.trial_id, TrialState.WAITING)

    def take_up_dead(self, *, forgive: bool = False) -> list[Claim]:
        """Gives back the cells whose workers died, and ends those that killed `MAX_ATTEMPTS` workers, which it returns.

        `forgive` counts from 1 again: a new command is a new attempt.
        """
        given_up = []
        with self._locked():
            for entry in self.entries("RUNNING"):
                if entry.worker is not None and self._member.alive(entry.worker):
                    continue
                if entry.attempt >= MAX_ATTEMPTS and not forgive:
                    reason = f"its worker died {entry.attempt} times (the last: {entry.worker}); out of memory?"
                    self._end(entry.trial_id, TrialState.FAIL, reason=reason)
                    given_up.append(Claim(entry.trial_id, entry.cell, entry.attempt))
                    continue
                self._storage.set_trial_user_attr(entry.trial_id, "attempt", 1 if forgive else entry.attempt + 1)
                self._storage.set_trial_state_values(entry.trial_id, TrialState.WAITING)
        return given_up

    # -------------------------------------------------------------------------------------------- looking at it

    def entries(self, *states: State, limit: int | None = None) -> list[Entry]:
        """The trials in these states (all without any), oldest first."""
        chosen = f"AND t.state IN ({', '.join(repr(state) for state in states)})" if states else ""
        some = "" if limit is None else f"LIMIT {limit}"
        query = (
            f"SELECT t.trial_id, CAST(t.state AS VARCHAR), a.key, a.value_json FROM (SELECT t.trial_id, t.state "
            f"FROM trials t WHERE t.study_id = :study {chosen} ORDER BY t.trial_id {some}) t "
            "JOIN trial_user_attributes a ON a.trial_id = t.trial_id "
            "WHERE a.key IN ('cell', 'worker', 'attempt', 'reason', 'whole_gpu') ORDER BY t.trial_id"
        )
        attributes: dict[tuple[int, State], dict[str, Any]] = {}
        with self._storage.engine.connect() as connection:
            for trial_id, state, key, value in connection.execute(text(query), {"study": self._study_id}):
                attributes.setdefault((trial_id, state), {})[key] = json.loads(value)
        return [
            Entry(trial_id, state, a["cell"], a.get("worker"), a["attempt"], a.get("reason"), a.get("whole_gpu", False))
            for (trial_id, state), a in attributes.items()
            if "cell" in a
        ]

    def states(self) -> dict[int, State]:
        """The state of every trial."""
        query = "SELECT trial_id, CAST(state AS VARCHAR) FROM trials WHERE study_id = :study"
        with self._storage.engine.connect() as connection:
            rows = connection.execute(text(query), {"study": self._study_id}).all()
        return {trial_id: state for trial_id, state in rows}  # noqa: C416

    def n_waiting(self) -> int:
        """How many cells wait for a worker."""
        return sum(state == "WAITING" for state in self.states().values())

    def sample(self) -> Config | None:
        """What one of the cells that are not done runs with; None when all are done."""
        first = self.entries("WAITING", "RUNNING", limit=1)
        return self._folder.read_cell(first[0].cell) if first else None

    def n_ended(self) -> int:
        """How many trials have ended, however they did."""
        return sum(state not in ("WAITING", "RUNNING") for state in self.states().values())

    def trials(self) -> list[FrozenTrial]:
        """The trials as Optuna has them, with their times; slower than `entries`."""
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def close(self) -> None:
        """Closes the connections to the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()
        if not self._is_sqlite:
            self._lock_engine.dispose()

    def _end(self, trial_id: int, state: TrialState, *, value: float | None = None, reason: str | None = None) -> bool:
        assert value is None or math.isfinite(value)
        try:
            if reason is not None:
                self._storage.set_trial_user_attr(trial_id, "reason", reason)
            return self._storage.set_trial_state_values(trial_id, state, None if value is None else [value])
        except UpdateFinishedTrialError:
            return False

    @contextmanager
    def _locked(self) -> Iterator[sqlalchemy.Connection | None]:
        """Alone with the queue. On PostgreSQL, gives the connection that holds the lock."""
        if self._is_sqlite:
            with self._file_lock:
                yield None
            return
        key = (
            int.from_bytes(hashlib.blake2b(f"sweeps/{self._folder.sweep}".encode(), digest_size=8).digest(), "big") >> 1
        )
        with self._lock_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
            try:
                yield connection
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})


def _connect_sqlite(path: str) -> sqlite3.Connection:
    """A connection that does not wait for the disk: a killed process loses nothing by that, and what a power failure
    takes, the next command finds missing and queues again. A claim takes 3 ms so, and up to 60 ms on a busy disk."""
    connection = sqlite3.connect(path, timeout=120, check_same_thread=False)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def in_short(failures: Sequence[str]) -> str:
    """The first failure, and how many more there are."""
    others = len(failures) - 1
    return failures[0] + (f" (and {others} more)" if others else "")


def _both(first: Config, second: Config) -> Config:
    """`second` with the regimes and seeds of both."""
    return dataclasses.replace(
        second, regimes=union(first.regimes, second.regimes), seeds=union(first.seeds, second.seeds)
    )
