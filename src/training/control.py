"""How the caller of a cell observes and leaves it: hooks, and the progress reports that they receive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class ProgressReport:
    """A point of training that every run of a cell has reached.

    `share`: fraction of the updates of the last stage. `means`: mean over the runs of every metric of the validation
    curves at that point, e.g. ``val/union/accuracy``.
    """

    share: Fraction
    means: Mapping[str, float]


OnProgress = Callable[[Sequence[ProgressReport]], None]
"""Receives all progress reports so far, in order, whenever there are more."""
