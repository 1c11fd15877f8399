"""Content hashes: a run is addressed by what its result depends on."""

from __future__ import annotations

import hashlib
import json

from src.config.schema import Config, RegimeConfig

SCHEMA_VERSION = 1
"""Part of every content hash: raise it when the meaning of a stored result changes."""


def digest(content: object) -> str:
    """16 hexadecimal digits that name a plain JSON value."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def cell_hash(config: Config, source_digest: str) -> str:
    """Names the cell: its recipe, the content of its data and the schema; regime and seed are left out."""
    return digest({"schema": SCHEMA_VERSION, "recipe": config.recipe(), "source": source_digest})


def run_hash(cell: str, regime: RegimeConfig, seed: int) -> str:
    """Names one run of a cell."""
    return digest({"cell": cell, "regime": regime.name, "knobs": regime.content(), "seed": seed})
