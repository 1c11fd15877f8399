"""Workers forked from one process that has loaded what they need, so that a further one starts in milliseconds.

That process is multiprocessing's fork server: it runs nothing but imports, so it has no thread, lock or GPU that a worker
would inherit.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Final, Protocol

from src.environment import ONE_THREAD, replace_variables, temporary_variables
from src.errors import ConfigError
from src.sweep.engine import DEFAULT_ENGINE
from src.sweep.folder import SweepFolder
from src.terminal import TextOutput

METHOD: Final = "forkserver"
MASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Signals that a terminal or a cluster sends to all processes of a command: the fork server ends with its command.

A worker is forked with this mask, which it lifts when it listens."""

LOADED = {DEFAULT_ENGINE: ("src.training.execute",)}
"""By engine, the modules that its `run_cell` imports."""


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
        multiprocessing.set_forkserver_preload([__name__, "src.sweep.workers.worker", engine, *LOADED.get(engine, ())])
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


def _run(folder: SweepFolder, search: str, engine: str, log: Path, environment: dict[str, str]) -> None:
    """The forked process: a session of its own, the worker's variables and its log, then `src.worker`'s work."""
    parent = os.getppid()
    os.setsid()
    with log.open("ab") as file, open(os.devnull, "rb") as null:
        for number, stream in ((0, null), (1, file), (2, file)):
            os.dup2(stream.fileno(), number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        output = io.BufferedWriter(io.FileIO(number, "wb", closefd=False))
        setattr(sys, name, TextOutput(output, "utf-8", errors="backslashreplace", line_buffering=True))
    replace_variables(os.environ, environment)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, force=True
    )
    from src.sweep.workers.worker import work

    try:
        n_cells = work(folder, search, engine, parent)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"nothing left for this worker; it ended {n_cells} cells", file=sys.stderr)
