"""Requests whose answer is lost: the server closes the connection without one, and may have executed the request.

MLflow's own retries repeat every request, also the creation of a run, which then exists twice; they are off. Here only
what may happen twice is repeated.
"""

from __future__ import annotations

from http.client import RemoteDisconnected
from typing import Any

from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException

TRIES = 8
"""Of one request. With a quarter of all answers lost, one in 65,536 requests remains without."""
ONCE = frozenset({"create_run", "delete_run", "create_experiment"})
"""Methods of the client that are not repeated."""
FAILURES = (MlflowException, RequestException, OSError)
"""What a request raises."""


def is_lost(error: BaseException | None) -> bool:
    """Whether the connection was there and closed before an answer came. It is the cause, or the context, of others."""
    if error is None or isinstance(error, (RemoteDisconnected, ConnectionResetError)):
        return error is not None
    return is_lost(error.__cause__) or is_lost(error.__context__)


class RepeatingClient:
    """MLflow's client, all of whose requests but those of `ONCE` are repeated while their answers are lost."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name in ONCE:
            return method

        def repeated(*arguments: Any, **settings: Any) -> Any:
            for _ in range(TRIES - 1):
                try:
                    return method(*arguments, **settings)
                except FAILURES as error:
                    if not is_lost(error):
                        raise
            return method(*arguments, **settings)

        return repeated
