"""Retries while the server of a study is unavailable, e.g. because it restarts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from src.errors import ConfigError
from src.progress import duration

RETRY_SECONDS = 300.0
"""How long a server may be unavailable: its restart takes seconds, that of its machine minutes."""

INTERVAL_SECONDS = 0.5

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class StorageUnavailable(ConfigError):
    """The server did not come back within `RETRY_SECONDS`, the caller would not wait for it, or the journal is lost."""


class Retry:
    """Retries operations on the storage with the URL `storage`, or on the journal in the file `storage`.

    `report` receives one line when the server becomes unavailable and one when it is back. Nothing is retried once
    `should_abort` returns True.
    """

    def __init__(self, storage: str, *, is_journal: bool = False) -> None:
        self._storage, self._is_journal = storage, is_journal
        self._is_nested = False
        self.report: Callable[[str], None] = log.warning
        self.should_abort: Callable[[], bool] = lambda: False

    def __call__(self, operation: Callable[[], Result]) -> Result:
        """Returns the operation's result. Raises StorageUnavailable.

        The server may have committed an operation whose reply was lost, so operations must be idempotent. A nested
        operation is not retried by itself: the outermost one is repeated.
        """
        if self._is_nested:
            return operation()
        self._is_nested = True
        failed_at: float | None = None
        try:
            while True:
                try:
                    result = operation()
                except (DBAPIError, StorageInternalError) as error:
                    if not is_unavailable(error):
                        raise
                    now = time.monotonic()
                    if failed_at is None:
                        failed_at = now
                        self._report(f"does not answer ({one_line(error)}); retrying for {duration(RETRY_SECONDS)}")
                    if now - failed_at > RETRY_SECONDS or self.should_abort():
                        problem = f"has not answered for {duration(now - failed_at)} ({one_line(error)})"
                        fix = "all results are on disk; start the server and repeat the command"
                        raise StorageUnavailable("storage", self._storage, f"{problem}; {fix}") from error
                    time.sleep(INTERVAL_SECONDS)
                except (
                    OSError,
                    ValueError,
                    LookupError,
                    TypeError,
                    AttributeError,
                ) as error:  # Optuna's, of a bad line
                    if not self._is_journal:
                        raise
                    problem = f"the journal was damaged or deleted while in use ({type(error).__name__}: {error})"
                    fix = "all results are on disk; delete this file, and the same command fills it again"
                    raise StorageUnavailable("storage", self._storage, f"{problem}; {fix}") from error
                else:
                    if failed_at is not None:
                        self._report("is available again")
                    return result
        finally:
            self._is_nested = False

    def _report(self, event: str) -> None:
        self.report(f"storage={self._storage}: {event}")


def is_unavailable(error: Exception) -> bool:
    """Whether a later try may succeed: no connection, a broken one, or a server that starts or stops."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    broken = isinstance(cause, DBAPIError) and cause.connection_invalidated
    return broken or isinstance(cause, (OperationalError, InterfaceError))


def one_line(error: Exception) -> str:
    """The database's own message, without the statement and SQLAlchemy's link."""
    cause = error.__cause__ or error
    return " ".join(str(getattr(cause, "orig", None) or cause).split())
