"""The Optuna study of a sweep, in a journal file of the sweep's folder or in a database; a cell's axes as parameters.

Only Optuna's public interface.
"""

from __future__ import annotations

import json
import math
import os
import socket
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from src.errors import ConfigError
from src.locks import held, holder, locked
from src.sweep.folder import SweepFolder
from src.sweep.queue.retry import (
    Retry,
    StorageUnavailable,
    database_errors,
    database_message,
    is_unavailable,
    waits_for_lock,
)
from src.urls import sqlite_file, with_driver, without_password

SCHEMA = "sweeps"
"""Schema of Optuna's tables on PostgreSQL. MLflow, whose tables may be in the same database, also has an
`alembic_version`."""

POSTGRESQL = {
    "options": f"-csearch_path={SCHEMA} -clock_timeout=1s -cidle_in_transaction_session_timeout=60s",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
"""Connection arguments; times in seconds. Keepalives detect a dead connection within one minute.

Waits for a lock return every second, so that signals are obeyed (`Retry` repeats them). The server ends the transaction
of a process that is suspended within it after a minute; the process repeats the operation when it wakes. The results on
disk are the truth, so no commit waits for the disk of the server.
"""

SQLITE = {"timeout": 1}
"""Seconds that a statement waits for a lock, deaf to signals; `Retry` repeats it."""

OLDEST_TRANSACTION = """
SELECT coalesce(nullif(application_name, ''), 'another program'), pid, xact_start FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'
ORDER BY xact_start LIMIT 1"""

Direction = Literal["maximize", "minimize"]
Axes = Mapping[str, str | float | int]


class StudyStore:
    """One study of a sweep, named `name`, in the storage that its queue.json names. `value`: the name of the values.

    `waits`: whether it is opened again and again while its server is out of reach, as any later operation is
    repeated. Changes of a trial's state require that the caller holds the lock of the trial's cell. Raises ConfigError
    when the storage is out of reach, damaged, or serves another folder.
    """

    def __init__(self, folder: SweepFolder, name: str, direction: Direction, value: str, *, waits: bool) -> None:
        queue = folder.read_queue()
        url: str | None = queue["storage"]
        shown = without_password(url)[0] if url else str(folder.root / "study.journal")
        self.retry = Retry(shown, lambda: _holder(url), is_journal=url is None)
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # broken connections are reported by `retry`
        optuna.logging.disable_default_handler()  # it writes colours
        optuna.logging.enable_propagation()
        try:

            def opened() -> str:
                with locked(folder.root / "queue.lock"):  # two processes that create tables at once would collide
                    return self._open(folder, queue, name, direction, value)

            served = self.retry(opened, None if waits else waits_for_lock) if url else opened()
        except ConfigError:  # of a lock, or of a server that does not come back
            raise
        except database_errors() as error:
            problem = f"cannot be used ({database_message(error)}); is the server running?"
            raise ConfigError("storage", shown, problem) from error
        except (ValueError, KeyError, TypeError) as error:
            if url:
                raise
            fix = "delete this file, and the same command fills it again"
            raise ConfigError("storage", shown, f"the journal is damaged ({database_message(error)}); {fix}") from error
        if served != queue["id"]:
            problem = (
                "this storage already serves a sweep of that name in another folder, or queue.json and queue.id were "
                "lost here; choose another name"
            )
            raise ConfigError("sweep", folder.sweep, problem)

    def _open(self, folder: SweepFolder, queue: Mapping[str, Any], name: str, direction: Direction, value: str) -> str:
        """Opens or creates the study; returns the id of the folder that it serves."""
        url: str | None = queue["storage"]
        self.storage = _database(with_driver(url)) if url else JournalStorage(_Journal(folder.root / "study.journal"))
        self.study = optuna.create_study(
            storage=self.storage, study_name=name, direction=direction, load_if_exists=True
        )
        served: str | None = self.study.user_attrs.get("folder")
        if served is None or url is None:  # the journal is this folder's, though queue.json may have been lost
            served = str(queue["id"])
            self.study.set_user_attr("folder", served)
            if not self.study.metric_names:  # what optuna-dashboard writes at its axis
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ExperimentalWarning)
                    self.study.set_metric_names([value])
        self._id = self.storage.get_study_id_from_name(name)
        return served

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in these states (in any, if none is given), oldest first. Not to be modified."""
        return self.retry(lambda: self.study.get_trials(deepcopy=False, states=states or None))

    def trial(self, number: int) -> FrozenTrial:
        """One trial."""
        return self.retry(lambda: self.storage.get_trial(self._trial_id(number)))

    def is_running(self, number: int) -> bool:
        """Whether a trial runs; also True while the study is unavailable."""
        try:
            trial = self.retry(lambda: self.storage.get_trial(self._trial_id(number)), lambda _: False)
        except StorageUnavailable:  # a journal that was deleted meanwhile
            return True
        except database_errors() as error:
            if not is_unavailable(error):
                raise
            return True
        return trial.state == TrialState.RUNNING

    def add(self, trials: Sequence[FrozenTrial]) -> None:
        """Adds trials. Not retried by itself: the caller looks first which are there."""
        self.study.add_trials(trials)

    def start(self, number: int) -> bool:
        """Makes a waiting trial run; False if it does not wait."""
        n_tries = 0

        def operation() -> bool:
            nonlocal n_tries
            n_tries += 1
            try:
                started = self.storage.set_trial_state_values(self._trial_id(number), TrialState.RUNNING)
            except UpdateFinishedTrialError:
                return False
            return started or n_tries > 1  # the reply to the first try was lost: no other process holds the cell's lock

        return self.retry(operation)

    def set(self, number: int, state: TrialState, value: float | None = None, **attributes: Any) -> bool:
        """Sets attributes and then the state of a trial; False if it has already ended."""

        def operation() -> bool:
            trial_id = self._trial_id(number)
            for key, content in attributes.items():
                self.storage.set_trial_user_attr(trial_id, key, content)
            self.storage.set_trial_state_values(trial_id, state, None if value is None else [value])
            return True

        try:
            return self.retry(operation)
        except UpdateFinishedTrialError:
            return False

    def note(self, number: int, values: Mapping[int, float], system: Mapping[str, Any]) -> None:
        """Adds intermediate values and system attributes to a running trial."""
        trial_id = self._trial_id(number)
        with suppress(UpdateFinishedTrialError):
            for step, value in values.items():
                self.storage.set_trial_intermediate_value(trial_id, step, value)
            for key, content in system.items():
                self.storage.set_trial_system_attr(trial_id, key, content)

    def close(self) -> None:
        """Closes connections to a database."""
        self.storage.remove_session()

    def _trial_id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._id, number)


def _holder(url: str | None) -> str:
    """Who holds locks in a database: the process with the oldest transaction."""
    if url is None:
        return "another process"
    if (file := sqlite_file(url)) is not None:
        return holder(file)
    import sqlalchemy

    engine = sqlalchemy.create_engine(with_driver(url), poolclass=sqlalchemy.NullPool, connect_args=POSTGRESQL)
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text(OLDEST_TRANSACTION)).first()
    return "another process" if found is None else "{} (session {}, since {:%H:%M:%S})".format(*found)


def _database(url: str) -> BaseStorage:
    import sqlalchemy

    dialect = sqlalchemy.make_url(url).get_backend_name()
    options: dict[str, Any] = {"connect_args": SQLITE if dialect == "sqlite" else {}}
    if dialect == "postgresql":
        timeout = {"connect_timeout": POSTGRESQL["connect_timeout"]}
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=timeout)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.schema.CreateSchema(SCHEMA, if_not_exists=True))
        name = f"process {os.getpid()} on {socket.gethostname()}"
        options = {"pool_pre_ping": True, "connect_args": {**POSTGRESQL, "application_name": name[:63]}}
    return optuna.storages.get_storage(RDBStorage(url, engine_kwargs=options))


class _Journal(JournalFileBackend):
    """Optuna's journal file, written without a sync to disk, since the results on disk are the truth.

    The operating system releases the lock of a killed writer; Optuna's own stays for 30 s.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._journal = path
        self._writing = FileLock(path.with_suffix(".lock"), poll_interval=0.001)  # study.journal.lock is Optuna's

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with held(self._writing), self._journal.open("r+b", buffering=0) as file:
            size = file.seek(0, 2)
            if size and file.seek(-1, 2) >= 0 and file.read(1) != b"\n":  # a writer was killed within a line
                file.seek(0)
                size = file.truncate(file.read().rfind(b"\n") + 1)
                file.seek(size)
            file.write(lines.encode())


class Parameters:
    """The parameters of a grid's trials: the axes in which its cells differ.

    A study fixes the kind of a parameter and the choices of a categorical one. So numbers are floats, whose range may
    grow, and a value that does not fit what earlier trials recorded is left out (`axes` among the user attributes has
    it).
    """

    def __init__(self, cells: Sequence[Axes], recorded: Iterable[FrozenTrial] = ()) -> None:
        known: dict[str, BaseDistribution] = {}
        for trial in recorded:
            known |= trial.distributions
        self._distributions = dict(known)
        for axis in dict.fromkeys(axis for axes in cells for axis in axes):
            values = [axes[axis] for axes in cells if axis in axes]
            if len(set(values)) > 1 or axis in known or len(cells) == 1:
                self._distributions[axis] = _distribution(values, known.get(axis))

    def of(self, axes: Axes) -> dict[str, Any]:
        """Arguments `params` and `distributions` of `optuna.trial.create_trial` for one of the cells."""
        params: dict[str, Any] = {}
        for axis, distribution in self._distributions.items():
            if axis not in axes:
                continue
            if isinstance(distribution, CategoricalDistribution):
                params |= {axis: str(axes[axis])} if str(axes[axis]) in distribution.choices else {}
            elif _is_number(axes[axis]):
                params[axis] = float(axes[axis])
        return {"params": params, "distributions": {axis: self._distributions[axis] for axis in params}}


def _distribution(values: Sequence[str | float | int], known: BaseDistribution | None) -> BaseDistribution:
    if isinstance(known, CategoricalDistribution):
        return known
    numbers = [float(value) for value in values if _is_number(value)]
    if isinstance(known, FloatDistribution):
        return FloatDistribution(min([known.low, *numbers]), max([known.high, *numbers]))
    if len(numbers) == len(values):
        return FloatDistribution(min(numbers), max(numbers))
    return CategoricalDistribution(sorted({str(value) for value in values}))


def _is_number(value: str | float | int) -> bool:
    """Whether a parameter can hold it as a number; ``inf`` (Dataset 1 is empty) is a text."""
    return not isinstance(value, str) and math.isfinite(value)
