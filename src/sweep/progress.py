"""Progress of a running sweep: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

PLAIN_SECONDS = 10.0
"""Seconds between two plain lines."""


@dataclass(frozen=True)
class SweepProgress:
    """Progress of a sweep. `verdicts`: number of finished cells that each regime wins."""

    n_cells: int
    n_cells_done: int
    n_runs: int
    n_runs_done: int
    n_running: int = 0
    n_failed: int = 0
    verdicts: Mapping[str, int] = field(default_factory=Counter)

    def line(self, eta_seconds: float | None) -> str:
        """The progress in one line."""
        parts = [f"cells {self.n_cells_done}/{self.n_cells}", f"runs {self.n_runs_done}/{self.n_runs}"]
        parts += [f"{state} {n}" for state, n in (("running", self.n_running), ("failed", self.n_failed)) if n]
        if eta_seconds is not None and self.n_runs_done < self.n_runs:
            parts.append(f"left {duration(eta_seconds)}")
        if self.verdicts:
            parts.append("so far " + ", ".join(f"{name} {count}" for name, count in sorted(self.verdicts.items())))
        return " | ".join(parts)


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Display:
    """Shows a sweep's `SweepProgress` on `console`; use it in a `with` statement."""

    def __init__(self, console: Console, start: SweepProgress) -> None:
        self._console = console
        self._start, self._began = start, time.monotonic()
        self._plain_at, self._plain_line = -PLAIN_SECONDS, ""
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=console, transient=False, refresh_per_second=4)
            self._task = self._bar.add_task(start.line(None), total=start.n_runs, completed=start.n_runs_done)

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def show(self, progress: SweepProgress, *, last: bool = False) -> None:
        """Updates the display; cheap, so callers need not limit the rate."""
        n_new = progress.n_runs_done - self._start.n_runs_done
        elapsed = time.monotonic() - self._began
        eta = elapsed / n_new * (progress.n_runs - progress.n_runs_done) if n_new > 0 else None
        line = progress.line(eta)
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.n_runs_done, description=line)
        elif line != self._plain_line and (last or elapsed - self._plain_at >= PLAIN_SECONDS):
            self._plain_at, self._plain_line = elapsed, line
            self.say(line)
