"""Runs a tiny cell and reads what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.config import Config
from tests.training.cells import tiny

Results = dict[str, Any]


def cell(folder: Path, *overrides: str) -> Config:
    return tiny(f"multirun={folder}", *overrides)


def results(config: Config) -> Results:
    """The `result` part of every run of the cell, by its folder's name."""
    return {
        path.parent.name: json.loads(path.read_text())["result"]
        for path in sorted(resolve(config).folder.glob("*/result.json"))
    }


def ran(config: Config) -> Results:
    run_cell(resolve(config))
    return results(config)


def curves(config: Config) -> dict[str, Any]:
    return {
        path.parent.name: pq.read_table(path).to_pydict() for path in resolve(config).folder.glob("*/history.parquet")
    }
