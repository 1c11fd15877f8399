"""The report of a grid, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.report.command import read_sweep
from src.report.page import write_report
from tests.report.report_page import GRID, Page
from tests.report.report_sweeps import write_grid


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over three axes with a report."""
    multirun = tmp_path_factory.mktemp("multirun")
    write_grid(multirun, "grid", GRID)
    write_report(read_sweep(multirun, "grid"))
    return multirun


@pytest.fixture(scope="session")
def page(grid: Path) -> Page:
    return Page(grid / "grid" / "report" / "report.html")
