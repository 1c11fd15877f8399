"""The database under a work queue: an Optuna study, the one lock around it, and its trials read and written.

Whatever changes hands does so in one transaction under one lock: a file's on SQLite, an advisory one on PostgreSQL. (SQLite's
own way to wait for its lock sleeps up to 100 ms at a time: four workers then spend most of their time waiting.)
Trials are looked up and changed by statements on Optuna's tables: its own methods load all trials, take a transaction for
each attribute, and try again by themselves, which would add a trial twice whose answer was lost.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.distributions import distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text

from src.errors import ConfigError
from src.sweep.folder import SweepFolder
from src.sweep.queue.parameters import Distributions
from src.sweep.queue.retry import Patience, in_a_line
from src.urls import with_driver, without_password

SCHEMA = "sweeps"
"""Where the tables are on PostgreSQL: MLflow, which notes its version in a table of the same name, may be there as well."""

CONNECTION = {
    "options": f"-csearch_path={SCHEMA}",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
"""How PostgreSQL is reached; seconds. A machine that is gone without a word is so noticed within a minute."""

State = Literal["WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL"]

TRIALS, PARAMS = models.TrialModel.__table__, models.TrialParamModel.__table__
VALUES, ATTRIBUTES = models.TrialValueModel.__table__, models.TrialUserAttributeModel.__table__


Database = TypeVar("Database", bound="TrialDatabase")
Given = ParamSpec("Given")
Result = TypeVar("Result")


def locked(method: Callable[Concatenate[Database, Given], Result]) -> Callable[Concatenate[Database, Given], Result]:
    """A method of a `TrialDatabase` that runs under its lock, in one transaction, and is `lasting`."""

    @functools.wraps(method)
    def alone(self: Database, /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        with self._locked():
            return method(self, *args, **kwargs)

    return lasting(alone)


def lasting(method: Callable[Concatenate[Database, Given], Result]) -> Callable[Concatenate[Database, Given], Result]:
    """A method that is begun again when the server was away; see `Patience.through`."""

    @functools.wraps(method)
    def again(self: Database, /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        operation = functools.partial(method, self, *args, **kwargs)
        return operation() if self._is_sqlite else self.patience.through(operation)

    return again


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


class TrialDatabase:
    """One study of a sweep. `about`: the content of the sweep's queue.json, whose storage is a database URL without
    password, or None for SQLite in the folder. `study`, `direction`: of Optuna's study.

    Raises ConfigError when the storage cannot be reached or serves another folder of the same name.
    """

    def __init__(
        self, folder: SweepFolder, about: Mapping[str, Any], study: str, direction: Literal["maximize", "minimize"]
    ) -> None:
        local = f"sqlite:///{(folder.root / 'queue.db').absolute()}"
        url = sqlalchemy.engine.make_url(with_driver(about["storage"] or local))
        self._is_sqlite = url.get_backend_name() == "sqlite"
        if self._is_sqlite:
            assert url.database is not None
            options: dict[str, Any] = {"creator": functools.partial(_connect_sqlite, url.database)}
            self._file_lock = FileLock(f"{url.database}.lock", poll_interval=0.002)
        else:
            options = {"pool_pre_ping": True, "connect_args": CONNECTION}
        shown, _ = without_password(about["storage"] or local)
        self.patience = Patience(shown)
        name = hashlib.blake2b(f"sweeps/{folder.sweep}".encode(), digest_size=8)
        self._lock_key = int.from_bytes(name.digest(), "big") >> 1
        self._connections = sqlalchemy.create_engine(url, **options)
        self._connection: sqlalchemy.Connection | None = None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            if not self._is_sqlite:
                with self._locked() as connection:
                    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
            with self._locked():  # two processes that create the tables at once would collide
                self._storage = optuna.storages.RDBStorage(url.render_as_string(), engine_kwargs=options)
                self._study = optuna.create_study(
                    storage=self._storage, study_name=study, direction=direction, load_if_exists=True
                )
                served = self._study.user_attrs.get("folder")
                if served is None:
                    self._study.set_user_attr("folder", about["id"])
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
            again = "delete this file, and the same command fills it again"
            fix = again if self._is_sqlite else "is the server running?"
            raise ConfigError("storage", shown, f"the queue cannot be used ({in_a_line(error)}); {fix}") from error
        if served not in (None, about["id"]):
            problem = "this storage already serves a sweep of that name in another folder; choose another name"
            raise ConfigError("sweep", folder.sweep, problem)
        self._study_id = self._study._study_id

    # -------------------------------------------------------------------------------------------- looking at it

    @lasting
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
        for trial_id, state, key, value in self._rows(query):
            attributes.setdefault((trial_id, state), {})[key] = json.loads(value)
        return [
            Entry(trial_id, state, a["cell"], a.get("worker"), a["attempt"], a.get("reason"), a.get("whole_gpu", False))
            for (trial_id, state), a in attributes.items()
            if "cell" in a
        ]

    @lasting
    def states(self) -> dict[int, State]:
        """The state of every trial."""
        rows = self._rows("SELECT trial_id, CAST(state AS VARCHAR) FROM trials WHERE study_id = :study")
        return {trial_id: state for trial_id, state in rows}  # noqa: C416

    @lasting
    def distributions(self) -> Distributions:
        """The parameters of the trials so far."""
        rows = self._rows(
            "SELECT p.param_name, p.distribution_json FROM trial_params p JOIN trials t ON t.trial_id = p.trial_id "
            "WHERE t.study_id = :study GROUP BY p.param_name, p.distribution_json ORDER BY MAX(p.param_id)"
        )
        return Distributions({name: optuna.distributions.json_to_distribution(json_text) for name, json_text in rows})

    @lasting
    def trials(self) -> list[FrozenTrial]:
        """The trials as Optuna has them, with their times; slower than `entries`."""
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    @lasting
    def trial(self, trial_id: int) -> FrozenTrial:
        """One of them."""
        return self._storage.get_trial(trial_id)

    def _rows(self, query: str, **parameters: Any) -> Sequence[Any]:
        with ExitStack() as opened:
            connection = self._connection or opened.enter_context(self._connections.connect())
            return connection.execute(text(query), {"study": self._study_id, **parameters}).all()

    # -------------------------------------------------------------------------------------------- changing it

    def _add(self, trials: Sequence[FrozenTrial]) -> list[int]:
        """Adds trials, under the lock; returns their ids."""
        if not trials:
            return []
        connection = self._under_lock()
        ((n_before,),) = self._rows("SELECT COUNT(*) FROM trials WHERE study_id = :study")
        rows = [
            {
                "number": n_before + k,
                "study_id": self._study_id,
                "state": trial.state,
                "datetime_start": trial.datetime_start and _utc(trial.datetime_start),
                "datetime_complete": trial.datetime_complete and _utc(trial.datetime_complete),
            }
            for k, trial in enumerate(trials)
        ]
        connection.execute(sqlalchemy.insert(TRIALS), rows)
        numbered = "SELECT trial_id FROM trials WHERE study_id = :study AND number >= :first ORDER BY number"
        ids = [trial_id for (trial_id,) in self._rows(numbered, first=n_before)]
        added = list(zip(ids, trials, strict=True))
        params = [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": trial.distributions[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(trial.distributions[name]),
            }
            for trial_id, trial in added
            for name, value in trial.params.items()
        ]
        attributes = [
            {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
            for trial_id, trial in added
            for key, value in trial.user_attrs.items()
        ]
        values = [_value_row(trial_id, trial.value) for trial_id, trial in added if trial.value is not None]
        for table, content in ((PARAMS, params), (ATTRIBUTES, attributes), (VALUES, values)):
            if content:
                connection.execute(sqlalchemy.insert(table), content)
        return ids

    def _change(self, trial_id: int, state: TrialState, *, value: float | None = None, **attributes: Any) -> bool:
        """Brings a trial into a state, under the lock; False, and nothing is changed, when it has already ended."""
        connection, times = self._under_lock(), dict[str, datetime]()
        if state == TrialState.RUNNING:
            times["datetime_start"] = _utc(datetime.now())
        if state.is_finished():
            times["datetime_complete"] = _utc(datetime.now())
        unfinished = TRIALS.c.state.in_([TrialState.WAITING, TrialState.RUNNING])
        update = sqlalchemy.update(TRIALS).where(TRIALS.c.trial_id == trial_id, unfinished)
        if not connection.execute(update.values(state=state, **times)).rowcount:
            return False
        for key, content in attributes.items():
            connection.execute(
                text(
                    "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:trial_id, :key, :value) "
                    "ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json"
                ),
                {"trial_id": trial_id, "key": key, "value": json.dumps(content)},
            )
        if value is not None:
            connection.execute(sqlalchemy.insert(VALUES), _value_row(trial_id, value))
        return True

    def _under_lock(self) -> sqlalchemy.Connection:
        assert self._connection is not None, "nothing changes hands but under the lock"
        return self._connection

    @contextmanager
    def _locked(self) -> Iterator[sqlalchemy.Connection]:
        """Alone with the sweep's studies, in one transaction that is committed at the end."""
        assert self._connection is None, "the lock is held"
        with ExitStack() as held:
            if self._is_sqlite:
                held.enter_context(self._file_lock)
            self._connection = held.enter_context(self._connections.begin())
            try:
                if not self._is_sqlite:
                    self._connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": self._lock_key})
                yield self._connection
            finally:
                self._connection = None

    def close(self) -> None:
        """Closes the connections to the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()
        self._connections.dispose()


def _connect_sqlite(path: str) -> sqlite3.Connection:
    """A connection that does not wait for the disk: a killed process loses nothing by that, and what a power failure
    takes, the next command finds missing and queues again. A transaction takes 1 to 2 ms so, and up to 60 on a busy disk."""
    connection = sqlite3.connect(path, timeout=120, check_same_thread=False)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _value_row(trial_id: int, value: float) -> dict[str, Any]:
    stored, kind = models.TrialValueModel.value_to_stored_repr(value)
    return {"trial_id": trial_id, "objective": 0, "value": stored, "value_type": kind}


def _utc(local: datetime) -> datetime:
    """As Optuna's tables have times."""
    return local.astimezone(UTC).replace(tzinfo=None)
