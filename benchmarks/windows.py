"""Windows of time that a rate is measured in: after a warm-up, synchronised; and values that are shown only where they are steady."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.harness import spread

STEADY = 0.2
"""Largest spread, (maximum - minimum) / median, of values whose median is shown."""


@dataclass(frozen=True)
class Window:
    """Updates that the device finished in so many seconds."""

    updates: int
    seconds: float

    @property
    def rate(self) -> float:
        """Updates per second. Raises ValueError where no time or no update has passed: that is no measurement."""
        if self.seconds <= 0 or self.updates <= 0:
            raise ValueError(f"{self.updates} updates in {self.seconds} s are no window")
        return self.updates / self.seconds


class WindowTimer:
    """Measures one window of a training in progress; `tick` is called between updates with their number so far.

    The window opens `warm_up` seconds after the first call and lasts at least `seconds`. `wait` waits for the device; it is
    called where the window opens and where it closes, and nowhere else, so that the host can run ahead as it does in use.
    """

    def __init__(
        self,
        warm_up: float,
        seconds: float,
        wait: Callable[[], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._warm_up, self._seconds, self._wait, self._clock = warm_up, seconds, wait, clock
        self._first: float | None = None
        self._opened: tuple[int, float] | None = None

    def tick(self, n_done: int) -> Window | None:
        """The window, once it has closed."""
        now = self._clock()
        if self._first is None:
            self._first = now
        elif self._opened is None:
            if now - self._first >= self._warm_up:
                self._wait()
                self._opened = n_done, self._clock()
        elif now - self._opened[1] >= self._seconds:
            self._wait()
            return Window(n_done - self._opened[0], self._clock() - self._opened[1])
        return None

    def of(self, train: Callable[[int], None], steps: int) -> Window:
        """The window of a loop; ``train(steps)`` makes that many updates."""
        n_done = 0
        while True:
            train(steps)
            n_done += steps
            if (window := self.tick(n_done)) is not None:
                return window


def is_steady(values: Sequence[float]) -> bool:
    """Whether all values are positive and their spread is at most `STEADY`."""
    return min(values) > 0 and max(values) - min(values) <= STEADY * statistics.median(values)


def shown(values: Sequence[float], decimals: int = 0) -> str:
    """Median [minimum, maximum] of steady values; otherwise no median."""
    if not is_steady(values):
        return f"unsteady: {min(values):,.{decimals}f}-{max(values):,.{decimals}f}"
    return spread(values, decimals)


def derived(values: Sequence[float], factor: float = 1.0, divisor: Sequence[float] | None = None) -> float | None:
    """The median times `factor`, relative to the median of `divisor`; None unless all are steady."""
    if not is_steady(values) or (divisor is not None and not is_steady(divisor)):
        return None
    return statistics.median(values) * factor / (1.0 if divisor is None else statistics.median(divisor))
