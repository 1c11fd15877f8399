"""notify=COMMAND: a command of the user's, run at the first failure and at the end of a sweep."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TIMEOUT_S = 60


class Notifier:
    """Runs the command through the shell, with SWEEP, EVENT and MESSAGE in its environment; None: runs nothing.

    The command is of the user's own command line: it is in no file, and no worker runs it.
    """

    def __init__(self, command: str | None, sweep: str) -> None:
        self._command, self._sweep = command, sweep
        self._has_failed = False

    def failed(self, message: str) -> None:
        """Reports the first failure."""
        if not self._has_failed:
            self._has_failed = True
            self._notify("failed", message)

    @contextmanager
    def end(self) -> Iterator[list[str]]:
        """Reports how the block ends, which adds a line for each failed cell to the list."""
        failures: list[str] = []
        try:
            yield failures
        except BaseException as error:
            is_exit = isinstance(error, SystemExit | KeyboardInterrupt)
            self._notify("stopped" if is_exit else "error", "" if is_exit else f"{type(error).__name__}: {error}")
            raise
        self._notify("done", f"{len(failures)} cells failed" if failures else "all cells are done")

    def _notify(self, event: str, message: str) -> None:
        if self._command is None:
            return
        variables = {**os.environ, "SWEEP": self._sweep, "EVENT": event, "MESSAGE": message}
        try:
            subprocess.run(
                self._command, shell=True, check=True, timeout=TIMEOUT_S, env=variables, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.SubprocessError) as error:
            print(f"notify={self._command}: {error}; the sweep continues", file=sys.stderr)
