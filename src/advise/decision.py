"""The decision: which candidate has the highest value, how certain that is, and which runs would settle it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SURE = 0.9
"""Probability from which the evidence is enough."""

DecisionKind = Literal["decided", "equal", "thin"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do, by candidate number.

    Attributes:
        kind: ``decided``; or an abstention: ``equal`` (the best two are within the margin) or ``thin`` (another candidate may
            well be better by more than the margin).
        choice: The candidate to take; of an abstention the cheapest of those that are as good as the leader.
        second: The best of the others.
        contenders: Those that more runs would have to compare; empty unless `kind` is ``thin``.
        p_best: Probability of being best, of each.
        regret: Expected distance to the best, of each.
    """

    kind: DecisionKind
    choice: int
    second: int | None
    contenders: tuple[int, ...]
    p_best: tuple[float, ...]
    regret: tuple[float, ...]

    @property
    def abstains(self) -> bool:
        return self.kind != "decided"


def decide(values: Array, costs: Sequence[float], margin: float) -> Decision:
    """The decision from draws of the candidates' values [draws, candidates]; of equals the one of least cost is taken.

    `margin`: the difference of values that does not matter.
    """
    n = values.shape[1]
    best, means = values.max(axis=1), values.mean(axis=0)
    is_best = np.isclose(values, best[:, None], rtol=1e-12, atol=1e-12)
    p_best = (is_best / is_best.sum(axis=1, keepdims=True)).mean(axis=0)
    regret = (best[:, None] - values).mean(axis=0)
    leader = int(means.argmax())
    behind = values[:, [leader]] - values
    as_good = [
        k for k in range(n) if means[leader] - means[k] <= margin / 2 and (behind[:, k] > margin).mean() <= 1 - SURE
    ]
    others = sorted((k for k in range(n) if k != leader), key=lambda k: -means[k])
    second = others[0] if others else None
    is_thin = float((best - values[:, leader] > margin).mean()) > 1 - SURE
    is_equal = second is not None and means[leader] - means[second] <= margin
    kind: DecisionKind = "thin" if is_thin else "equal" if is_equal else "decided"
    choice = min({leader, *as_good}, key=lambda k: (costs[k], -means[k])) if kind != "decided" else leader
    may_win = (-behind > margin).mean(axis=0) > (1 - SURE) / 4
    contenders = tuple(k for k in range(n) if k == leader or may_win[k]) if is_thin else ()
    if choice != leader:
        second = leader
    return Decision(
        kind=kind,
        choice=choice,
        second=second,
        contenders=contenders,
        p_best=tuple(p_best.tolist()),
        regret=tuple(regret.tolist()),
    )
