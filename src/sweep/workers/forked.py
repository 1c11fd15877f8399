"""Workers forked from one process that has loaded what they need, so that a further one starts in milliseconds.

That process is multiprocessing's fork server: it runs nothing but imports, so it has no thread, lock or GPU that a
worker would inherit.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

from src.environment import ONE_THREAD, replace_variables, temporary_variables
from src.errors import ConfigError, Interrupted
from src.sweep.engine import RUN_MODULES
from src.sweep.folder import SweepFolder

METHOD: Final = "forkserver"
MASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Signals that a terminal or a cluster sends to all processes of a command: the fork server ends with its command.

A worker is forked with this mask, which it lifts when it listens."""


class WorkerProcess(Protocol):
    """A started worker: what is used of `subprocess.Popen`."""

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float) -> int | None:
        """Raises subprocess.TimeoutExpired."""

    def send_signal(self, number: signal.Signals) -> None: ...


class ForkedWorker:
    """A worker as a child of the fork server, which the first one starts."""

    def __init__(
        self, folder: SweepFolder, search: str, engine: str, log: Path, environment: Mapping[str, str]
    ) -> None:
        """`log`: the file that receives the worker's output; `environment`: all of its variables."""
        multiprocessing.set_forkserver_preload(
            [__name__, "src.sweep.workers.worker", engine, *RUN_MODULES.get(engine, ())]
        )
        self._process = multiprocessing.get_context(METHOD).Process(
            target=_run, args=(folder, search, engine, log, dict(environment)), daemon=True
        )
        resource_tracker.ensure_running()  # it would lift the mask below
        before = signal.pthread_sigmask(signal.SIG_BLOCK, MASKED)
        try:
            with temporary_variables({name: environment[name] for name in (*ONE_THREAD, "PYTHONPATH")}):
                forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._was_started = True
        try:
            with interruptible():  # the first waits until the fork server has loaded its modules
                self._process.start()
        except (OSError, EOFError) as error:
            self._was_started = False
            log.write_text(f"the process that forks the workers has died: {type(error).__name__} {error}\n")

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode if self._was_started else 1

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float) -> int | None:
        if self._was_started:
            self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("worker", timeout)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self._process.pid or 0, number)


@contextmanager
def interruptible() -> Iterator[None]:
    """A step in which a signal also raises Interrupted, after its handler has run."""

    def handle(number: int, frame: FrameType | None) -> None:
        before[number](number, frame)
        raise Interrupted

    in_main = threading.current_thread() is threading.main_thread()
    handlers = {int(number): signal.getsignal(number) for number in MASKED[:3] if in_main}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(folder: SweepFolder, search: str, engine: str, log: Path, environment: dict[str, str]) -> None:
    """The forked process: a session of its own, the worker's variables and its log, then `src.worker`'s work."""
    parent = os.getppid()
    os.setsid()
    replace_variables(os.environ, environment)
    from src.sweep.workers.worker import work_logged

    try:
        work_logged(folder, search, engine, log, parent)
    except ConfigError:
        sys.exit(2)
