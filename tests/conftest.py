"""For all tests: one thread and the commands' arithmetic, set before any library that reads these settings is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from src.comparison.pairing import Records, load_records
from src.sweep import fork_server
from src.sweep.engine import DEFAULT_ENGINE
from tests import postgres as server
from tests.records import write_failure, write_run

LONG = (
    *(
        "golden/test_golden.py",
        "reliability/test_storage_restart.py",
        "test_environment.py",
        "sweep/test_damaged_files.py",
    ),
    *("config/test_broken.py", "test_cli.py", "sweep/test_command.py", "training/test_groups.py", "test_extending.py"),
    *("reliability/test_terminal.py", "reliability/test_kills.py", "report/test_page.py", "tracking/test_server.py"),
    *("record/test_script.py", "sweep/test_workers.py", "test_devices.py", "advise/test_command.py"),
)
"""Modules that take longest, longest first: started last, one would keep a single worker of pytest-xdist busy at the end."""

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_CBWR", "AUTO")  # as src.training.devices sets it, which is too late after another's product


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules in `LONG` first."""
    rank = {Path(__file__).parent / module: number for number, module in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(autouse=True, scope="session")
def _one_fork_server() -> Iterator[None]:
    """Commands that run in this process share one fork server: it loads the laboratory, whatever engine starts it."""
    start = fork_server.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fork_server, "start", lambda _, environment: start(DEFAULT_ENGINE, environment))
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL, reached by a socket; skipped, with the reason, where none starts."""
    try:
        with server.running() as url:
            yield url
    except server.NoPostgres as error:
        pytest.skip(f"no PostgreSQL: {error}")


@pytest.fixture(scope="session")
def empty_multirun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multirun/ whose mlflow.db has its schema: creating one takes seconds, copying it nothing."""
    from src.config import TrackingConfig
    from src.tracking.connect import keep_mlflow_quiet, open_tracker

    keep_mlflow_quiet()
    folder = tmp_path_factory.mktemp("template") / "multirun"
    tracker = open_tracker(TrackingConfig(name="local", uri=None, experiment="lab"), folder)
    assert tracker is not None
    tracker.close()
    return folder


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
