"""For all tests: one thread and the commands' arithmetic, set before any library that reads these settings is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from src.comparison.pairing import Records, load_records
from tests import postgres as server
from tests.records import write_failure, write_run

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


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return tmp_path / "sweep"


@pytest.fixture
def cell_of(sweep: Path) -> Callable[..., Records]:
    """Write one cell from each regime's values by seed, and read the whole sweep back."""

    def write(values: Mapping[str, Sequence[float | None]], *, cell: str = "c0", **knobs: Any) -> Records:
        for regime, of_seeds in values.items():
            for seed, value in enumerate(of_seeds):
                write_run(sweep, cell, regime, seed, value, **knobs)
        return load_records(sweep)

    return write


@pytest.fixture
def run_writer() -> Callable[..., Path]:
    return write_run


@pytest.fixture
def failure_writer() -> Callable[..., Path]:
    return write_failure
