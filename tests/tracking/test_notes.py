"""The note of a cell or sweep in MLflow: its command in full, or where the settings are."""

from __future__ import annotations

import pytest

from src.tracking.record import MAX_TAG
from src.tracking.runs import _pending_sweep, _with_report


@pytest.mark.parametrize("n_words", [1, 300, 3000])
@pytest.mark.parametrize("note", ["short", "long " * 3000])
def test_a_command_is_in_the_note_in_full_or_not_at_all(n_words: int, note: str) -> None:
    command = "python -m src.sweep " + "split.size=9 " * n_words
    body = {"note": note, "command": command, "metrics": {}, "finished_at": "2026-01-01T00:00:00+00:00"}
    text = _with_report(_pending_sweep("s", 0), body).tags["mlflow.note.content"]
    assert len(text) <= MAX_TAG
    assert (command in text) == (len(command) < MAX_TAG // 2 - 8)
    assert command in text or ("summary.json" in text and "split.size" not in text)
