"""The tests' engine, which trains nothing, with a diary of when each cell began and ended."""

from __future__ import annotations

import os
import time
from typing import Any

from src.config import Config
from tests.sweep import fake_engine


def __getattr__(name: str) -> Any:
    return getattr(fake_engine, name)


def run_cell(config: Config, **calls: Any) -> Any:
    """As there; times are of the system's monotonic clock, in seconds."""
    began = time.monotonic()
    outcome = fake_engine.run_cell(config, **calls)
    fake_engine.note(config, f"took {os.getpid()} {began} {time.monotonic()}")
    return outcome
