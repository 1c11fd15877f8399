"""A sync of thousands of runs looks them up in few queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from src.config import TrackingConfig
from src.errors import ConfigError
from src.sync import sync
from src.tracking.record import Record
from tests.tracking.folders import sweep_of


class Counting:
    """A tracker that holds every record already."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def write(self, records: Sequence[Record]) -> int:
        self.batches.append(len(records))
        return 0

    def close(self) -> None: ...


def test_hundreds_of_records_are_looked_up_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_of(tmp_path, n_seeds=8)
    tracker = Counting()
    monkeypatch.setattr("src.sync.open_tracker", lambda *_: tracker)
    report = sync(tmp_path, TrackingConfig(name="local", uri=None, experiment="e"))
    assert tracker.batches == [report.n_records] == [4 * (2 * 8 + 1) + 1], "each look-up reads the tags of all runs"


def test_a_folder_that_is_not_there_is_a_mistake_and_is_not_made(tmp_path: Path) -> None:
    local = TrackingConfig(name="local", uri=None, experiment="e")
    with pytest.raises(ConfigError, match=r"^multirun=.*typo: there is no such folder"):
        sync(tmp_path / "typo", local)
    assert not (tmp_path / "typo").exists()
