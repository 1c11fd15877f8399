"""A sync of thousands of runs looks them up in few queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from src.config import TrackingConfig
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
