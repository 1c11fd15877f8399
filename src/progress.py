"""Progress of a sweep and of long steps: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from src import terminal

PLAIN_SECONDS = 10.0
"""Seconds between two plain lines."""
STILL_SECONDS = 60.0
"""Seconds after which a plain line is repeated though nothing has changed, with the time since the start."""
QUIET_SECONDS = 2.0
"""Longest step of a command that shows no progress."""
RATED_ITEMS = 10
"""Items after the first ones from which a rate is estimated at once."""
SLOW_SECONDS = 60.0
"""A first item that takes longer takes so because of its work: start-up takes less."""
TRAINED_SECONDS = 10.0
"""First items that are done sooner were most likely in the stage store: they say nothing about those that train."""

Item = TypeVar("Item")


def tracked(items: Iterable[Item], what: str, n: int) -> Iterator[Item]:
    """The `n` items; standard error shows how many of them are done, if they take longer than `QUIET_SECONDS`."""
    began = time.monotonic()
    with ExitStack() as stack:
        display: Display | None = None
        for n_done, item in enumerate(items):
            if display is None and time.monotonic() - began > QUIET_SECONDS:
                display = stack.enter_context(Display(terminal.console(stderr=True), _counted(what, n_done, n)))
            if display is not None:
                display.show(_counted(what, n_done, n))
            yield item
        if display is not None:
            display.show(_counted(what, n, n), last=True)


def _counted(what: str, n_done: int, n: int) -> SweepProgress:
    return SweepProgress(n=n, n_done=n_done, n_open=0, n_waiting=0, counts=[f"{what} {n_done:,}/{n:,}"])


@dataclass(frozen=True)
class SweepProgress:
    """Progress of a command. `n`, `n_done`: of the runs or trials from which the time left is estimated.

    `n_open`, `n_waiting`: cells that wait or run, and that wait; `counts`, `result`: shown before and after the time
    left.
    """

    n: int
    n_done: int
    n_open: int
    n_waiting: int
    counts: Sequence[str]
    result: str = ""

    def line(self, eta_seconds: float | None) -> str:
        """The progress in one line."""
        left = [f"left {duration(eta_seconds)}"] if eta_seconds is not None and self.n_done < self.n else []
        return " | ".join([*self.counts, *left, *filter(None, [self.result])])


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
        self._first: tuple[float, int] | None = None
        """When the first items were done, and how many there were: what came before is start-up as well."""
        self._plain_at, self._plain_line = -PLAIN_SECONDS, ""
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (SpinnerColumn(), BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=console, transient=False, refresh_per_second=4)
            self._task = self._bar.add_task(start.line(None), total=start.n, completed=start.n_done)

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        self._console.print(message, soft_wrap=True)

    def show(self, progress: SweepProgress, *, last: bool = False) -> None:
        """Updates the display; cheap, so callers need not limit the rate."""
        elapsed = time.monotonic() - self._began
        line = progress.line(self._seconds_left(progress, elapsed))
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.n_done, description=line)
        elif line != self._plain_line and (last or elapsed - self._plain_at >= PLAIN_SECONDS):
            self._plain_at, self._plain_line = elapsed, line
            self.say(line)
        elif line == self._plain_line and not last and elapsed - self._plain_at >= STILL_SECONDS:
            self._plain_at = elapsed
            self.say(f"{line} | {duration(elapsed)} so far")

    def _seconds_left(self, progress: SweepProgress, elapsed: float) -> float | None:
        """Seconds left at the rate since the first items, or None while start-up would still distort it."""
        n_left, n_new = progress.n - progress.n_done, progress.n_done - self._start.n_done
        if n_new <= 0:
            return None
        if self._first is None:
            self._first = elapsed, n_new
        began, n_first = self._first
        n_since, since = n_new - n_first, elapsed - began
        if n_since >= RATED_ITEMS or (n_since and since >= began):
            return since / n_since * n_left
        return elapsed / n_new * n_left if began >= SLOW_SECONDS or since >= began >= TRAINED_SECONDS else None
