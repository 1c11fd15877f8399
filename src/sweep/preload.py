"""Imported by the fork server alone, before it forks the first worker: it imports what all workers need.

The server ends with its command, even while it imports. Else the reader of a pipe (`... | tee log`) would wait for that
after a command that ended early, as by a mistake in the data. On systems other than Linux the reader waits.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys

from src.sweep.fork_server import ENGINE, PARENT

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h: the signal that a process receives when its parent ends."""

if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.pop(PARENT, str(os.getppid())) != str(os.getppid()):  # it ended before this line
        os._exit(1)
for module in ("src.sweep.workers.forked", "src.sweep.workers.worker"):
    importlib.import_module(module)
if ENGINE in os.environ:  # not where multiprocessing itself replaces a dead fork server
    importlib.import_module("src.sweep.engine").load_engine(os.environ.pop(ENGINE)).load()
