"""multiprocessing's fork server: a process that has loaded what workers need, and that they are forked from.

It runs nothing but imports, so it has no thread, lock or GPU that a forked process would inherit.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping
from multiprocessing import forkserver, resource_tracker
from typing import Final

from src.environment import ONE_THREAD, temporary_variables

METHOD: Final = "forkserver"
PRELOAD = "src.sweep.preload"
ENGINE = "SWEEP_ENGINE"
"""The variable that tells `PRELOAD` the module whose cells the workers run."""
PARENT = "SWEEP_PARENT"
"""The variable that tells `PRELOAD` the process id of the command."""
MASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Signals that a terminal or a cluster sends to all processes of a command: the fork server ends with its command.

A process is forked with this mask, and lifts it when it obeys signals."""

_is_started = False


def start(engine: str, environment: Mapping[str, str]) -> None:
    """Starts the fork server unless it runs; returns while it loads what workers of the `engine` need.

    To be called from the main thread: the server ends with the thread that starts it (`src.sweep.preload`).
    `environment`: the variables of a worker, of which those hold that libraries read when they load.
    """
    global _is_started
    multiprocessing.set_forkserver_preload([PRELOAD])
    resource_tracker.ensure_running()  # it would lift the mask below
    before = signal.pthread_sigmask(signal.SIG_BLOCK, MASKED)
    try:
        own = {ENGINE: engine, PARENT: str(os.getpid())}
        with temporary_variables({**own, **{name: environment[name] for name in (*ONE_THREAD, "PYTHONPATH")}}):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _is_started = True


def is_started() -> bool:
    """Whether this process has started its fork server."""
    return _is_started
