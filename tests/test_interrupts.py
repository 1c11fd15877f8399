"""Signals within an import: nothing is raised there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.interrupts import STOPPED, is_importing
from src.io import PROJECT
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


TWICE = """
import os, signal, sys, threading
from src import interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)  # these tests may run where it is ignored
interrupts.listen()
started = threading.Thread.start
def start(thread):  # a second signal while the first one's timer starts, amid its locks
    started(thread)
    with threading._active_limbo_lock:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): pass
threading.Thread.start = start
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_second_ctrl_c_within_the_first_ones_handler_ends_the_command() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, f"{STOPPED}\n")


FULL = """
import os, signal, sys
from src import interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)  # these tests may run where it is ignored
interrupts.listen()
class Full:
    def flush(self): raise BlockingIOError("takes no more")
sys.stdout = Full()
sys.path.insert(0, sys.argv[1])
import amid
"""


def test_an_output_that_takes_no_more_raises_nothing_within_an_import(tmp_path: Path) -> None:
    (tmp_path / "amid.py").write_text(AMID.format(then=""))
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, f"{STOPPED}\n")
