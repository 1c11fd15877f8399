"""What a process of a sweep does when its database goes away: it says so, keeps trying, and goes on where it was."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from src.errors import ConfigError
from src.sweep.progress import duration

PATIENCE_SECONDS = 300.0
"""How long a database may be away: a restart takes seconds, that of its machine some minutes."""

RETRY_SECONDS = 0.5

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class StorageAway(ConfigError):
    """The database has not come back in time."""


class Patience:
    """The patience of one process with the database `storage`, which is shown as that.

    `say` is told, once each, that it is away and that it is back; where `hurried` is true nothing is waited for.
    """

    def __init__(self, storage: str) -> None:
        self._storage = storage
        self._trying = False
        self.say: Callable[[str], None] = log.warning
        self.hurried: Callable[[], bool] = lambda: False

    def through(self, operation: Callable[[], Result]) -> Result:
        """The operation's result; it is begun again as long as the database is away, and not before it is back.

        What it did at last may have been committed without an answer, so it must look before it acts. Inside another
        one it is just called: the outermost begins again, as the lock is lost with the connection. Raises StorageAway.
        """
        if self._trying:
            return operation()
        self._trying = True
        away_since: float | None = None
        try:
            while True:
                try:
                    result = operation()
                except (DBAPIError, StorageInternalError) as error:
                    if not _is_away(error):
                        raise
                    if away_since is None:
                        away_since = time.monotonic()
                        self._say(f"does not answer ({in_a_line(error)}); trying for {duration(PATIENCE_SECONDS)}")
                    away = time.monotonic() - away_since
                    if away > PATIENCE_SECONDS or self.hurried():
                        problem = f"has not answered for {duration(away)} ({in_a_line(error)})"
                        fix = "the results are on disk, nothing is lost; start the server, and the same command goes on"
                        raise StorageAway("storage", self._storage, f"{problem}; {fix}") from error
                    time.sleep(RETRY_SECONDS)
                else:
                    if away_since is not None:
                        self._say("is back; going on")
                    return result
        finally:
            self._trying = False

    def _say(self, what: str) -> None:
        self.say(f"storage={self._storage}: {what}")


def _is_away(error: Exception) -> bool:
    """Whether it may be different later: no connection, a connection that broke, a server that starts or ends."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    broken = isinstance(cause, DBAPIError) and cause.connection_invalidated
    return broken or isinstance(cause, (OperationalError, InterfaceError))


def in_a_line(error: Exception) -> str:
    """The database's own words, without the statement and SQLAlchemy's link."""
    cause = error.__cause__ or error
    return " ".join(str(getattr(cause, "orig", None) or cause).split())
