"""Workers forked from one process that has loaded what they need, so that a further one starts in milliseconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

from src.environment import replace_variables
from src.errors import ConfigError, Interrupted
from src.sweep import fork_server
from src.sweep.folder import SweepFolder


class WorkerProcess(Protocol):
    """A started worker: what is used of `subprocess.Popen`."""

    def poll(self) -> int | None: ...

    def wait(self, timeout: float) -> object:
        """Raises subprocess.TimeoutExpired."""

    def send_signal(self, number: signal.Signals) -> None: ...


class ForkedWorker:
    """A worker as a child of the fork server, which the first one starts unless it runs."""

    def __init__(
        self, folder: SweepFolder, search: str, engine: str, log: Path, environment: Mapping[str, str]
    ) -> None:
        """`log`: the file that receives the worker's output; `environment`: all of its variables."""
        fork_server.start(engine, environment)
        self._process = multiprocessing.get_context(fork_server.METHOD).Process(
            target=_run, args=(folder, search, engine, log, dict(environment)), daemon=True
        )
        self._was_started = True
        try:
            with interruptible():  # the first waits until the fork server has loaded its modules
                self._process.start()
        except (OSError, EOFError) as error:
            self._was_started = False
            log.write_text(f"the process that forks the workers has died: {type(error).__name__} {error}\n")

    def poll(self) -> int | None:
        return self._process.exitcode if self._was_started else 1

    def wait(self, timeout: float) -> None:
        if self._was_started:
            self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("worker", timeout)

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self._process.pid or 0, number)


@contextmanager
def interruptible() -> Iterator[None]:
    """A step in which a signal also raises Interrupted, after its handler has run."""

    def handle(number: int, frame: FrameType | None) -> None:
        before[number](number, frame)
        raise Interrupted

    in_main = threading.current_thread() is threading.main_thread()
    handlers = {int(number): signal.getsignal(number) for number in fork_server.MASKED[:3] if in_main}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(folder: SweepFolder, search: str, engine: str, log: Path, environment: dict[str, str]) -> None:
    """The forked process: a session of its own, the worker's variables and its log, then a worker's work."""
    parent = os.getppid()
    os.setsid()
    replace_variables(os.environ, environment)
    from src.sweep.workers.worker import work_logged

    try:
        work_logged(folder, search, engine, log, parent)
    except ConfigError:
        sys.exit(2)
