"""For all tests: one thread, and the arithmetic of the commands, set before a library is loaded that asks for them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import postgres as server

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_CBWR", "AUTO")  # as src.training.devices sets it, which is too late after another's product


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL, reached by a socket; skipped, with the reason, where none starts."""
    try:
        with server.running() as url:
            yield url
    except server.NoPostgres as error:
        pytest.skip(f"no PostgreSQL: {error}")
