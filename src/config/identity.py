"""Content hashes: a run is addressed by what its result depends on."""

from __future__ import annotations

from src.config.schema import Config
from src.io import digest
from src.regimes.config import RegimeConfig

SCHEMA_VERSION = 1
"""Part of every content hash: raise it when the meaning of a stored result changes."""


def cell_hash(config: Config, source_digest: str) -> str:
    """Names the cell: its recipe, the content of its data and the schema; regime and seed are left out."""
    return digest({"schema": SCHEMA_VERSION, "recipe": config.recipe(), "source": source_digest})


def run_hash(cell: str, regime: RegimeConfig, seed: int) -> str:
    """Names one run of a cell."""
    return digest({"cell": cell, "regime": regime.name, "knobs": regime.content(), "seed": seed})
