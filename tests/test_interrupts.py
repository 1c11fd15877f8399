"""Signals within an import: nothing is raised there."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from src.interrupts import is_importing
from src.sweep.workers.worker import StopRequest

AMID = """
import os, signal, sys
from src.interrupts import is_importing
was_importing = is_importing(sys._getframe())
os.kill(os.getpid(), signal.SIGINT)
for _ in range(1000): pass
{then}
is_complete = True
"""


def load(folder: Path, monkeypatch: pytest.MonkeyPatch, then: str = "") -> int:
    """The exit status of a process whose import, in a worker's step that loads, is interrupted; 7: it was completed and
    then stopped."""
    (folder / "amid.py").write_text(AMID.format(then=then))
    monkeypatch.syspath_prepend(folder)
    if not (child := os.fork()):
        try:
            stop = StopRequest()
            stop.listen()
            try:
                with stop.loading():
                    import amid  # type: ignore[import-not-found]
            except KeyboardInterrupt:
                os._exit(7 if sys.modules["amid"].is_complete and amid.was_importing else 98)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_worker_completes_an_import_before_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(tmp_path, monkeypatch) == 7
    assert not is_importing(sys._getframe())


def test_a_worker_leaves_an_import_that_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.sweep.workers.worker.SECONDS_TO_LEAVE", 0.1)
    assert load(tmp_path, monkeypatch, then="import time; time.sleep(60)") == 128 + signal.SIGINT
