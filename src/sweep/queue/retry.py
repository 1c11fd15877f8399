"""Retries while the server of a study is unavailable, e.g. because it restarts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError

from src.errors import ConfigError
from src.locks import NOTICE_SECONDS, abort_requested
from src.progress import duration

RETRY_SECONDS = 300.0
"""How long a server may be unavailable: its restart takes seconds, that of its machine minutes."""

INTERVAL_SECONDS = 0.5

LOCK_NOT_AVAILABLE = "55P03"
"""PostgreSQL's code for a lock that `lock_timeout` gave up."""

Result = TypeVar("Result")

log = logging.getLogger(__name__)


def database_errors() -> tuple[type[Exception], ...]:
    """What a database raises. Loads SQLAlchemy, which a journal does without."""
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError, StorageInternalError


class StorageUnavailable(ConfigError):
    """The server did not come back within `RETRY_SECONDS`, the caller would not wait for it, or the journal is lost."""


class Retry:
    """Retries operations on the storage with the URL `storage`, or on the journal in the file `storage`.

    `report` receives one line when the server becomes unavailable, or when a lock there is held for seconds, and one
    when it is back. Nothing is retried once `should_abort` returns True. `holder`: names who holds locks of the
    storage.
    """

    def __init__(self, storage: str, holder: Callable[[], str], *, is_journal: bool) -> None:
        self._storage, self._holder, self._is_journal = storage, holder, is_journal
        self._is_nested = False
        self.report: Callable[[str], None] = log.warning
        self.should_abort = abort_requested

    def __call__(self, operation: Callable[[], Result], tolerates: Callable[[Exception], bool] | None = None) -> Result:
        """Returns the operation's result. Raises StorageUnavailable. `tolerates`: after which errors it tries again.

        The server may have committed an operation whose reply was lost, so operations must be idempotent. A nested
        operation is not retried by itself: the outermost one is repeated.
        """
        if self._is_nested:
            return operation()
        self._is_nested = True
        try:
            if self._is_journal:
                return self._on_journal(operation)
            return self._on_database(operation, tolerates or is_unavailable)
        finally:
            self._is_nested = False

    def _on_journal(self, operation: Callable[[], Result]) -> Result:
        try:
            return operation()
        except ConfigError:  # of a lock
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # Optuna's, of a bad line
            problem = f"the journal was damaged or deleted while in use ({type(error).__name__}: {error})"
            fix = "all results are on disk; delete this file, and the same command fills it again"
            raise StorageUnavailable("storage", self._storage, f"{problem}; {fix}") from error

    def _on_database(self, operation: Callable[[], Result], tolerates: Callable[[Exception], bool]) -> Result:
        failed_at: float | None = None
        is_reported = False
        while True:
            began = time.monotonic()
            try:
                result = operation()
            except database_errors() as error:
                if not tolerates(error):
                    raise
                failed_at = failed_at or began
                waited, is_lock = time.monotonic() - failed_at, waits_for_lock(error)
                if not is_reported and not (is_lock and waited < NOTICE_SECONDS):
                    is_reported = True
                    answer = f"does not answer ({database_message(error)})"
                    cause = f"a lock is held by {self._holder()}" if is_lock else answer
                    self._report(f"{cause}; retrying for {duration(RETRY_SECONDS)}")
                if waited > RETRY_SECONDS or self.should_abort():
                    problem = f"has not answered for {duration(waited)} ({database_message(error)})"
                    fix = "all results are on disk; start the server and repeat the command"
                    raise StorageUnavailable("storage", self._storage, f"{problem}; {fix}") from error
                time.sleep(INTERVAL_SECONDS)
            else:
                if is_reported:
                    self._report("is available again")
                return result

    def _report(self, event: str) -> None:
        self.report(f"storage={self._storage}: {event}")


def is_unavailable(error: Exception) -> bool:
    """Whether a later try may succeed: no connection, a broken one, or a server that starts or stops."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    cause = _cause(error)
    broken = isinstance(cause, DBAPIError) and cause.connection_invalidated
    return broken or isinstance(cause, (OperationalError, InterfaceError))


def waits_for_lock(error: Exception) -> bool:
    """Whether another connection holds a lock that the operation needs."""
    original = getattr(_cause(error), "orig", None)
    return getattr(original, "pgcode", None) == LOCK_NOT_AVAILABLE or "database is locked" in str(original)


def database_message(error: Exception) -> str:
    """The database's own message, without the statement and SQLAlchemy's link."""
    cause = _cause(error)
    return " ".join(str(getattr(cause, "orig", None) or cause.__cause__ or cause).split())


def _cause(error: BaseException) -> BaseException:
    """The database's error behind those that report it.

    Optuna wraps it. When a connection breaks while trials are read, Optuna tries another statement in the same
    transaction first, which SQLAlchemy refuses with a PendingRollbackError.
    """
    from sqlalchemy.exc import PendingRollbackError

    while isinstance(error, (StorageInternalError, PendingRollbackError)):
        behind = error.__cause__ or error.__context__
        if behind is None:
            break
        error = behind
    return error
