"""The decision: which candidate has the highest value, how certain that is, and which runs would settle it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from src.comparison.statistics import Floats

SURE = 0.9
"""Probability from which the evidence is enough."""

DecisionKind = Literal["decided", "close", "thin"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do, by candidate number.

    Attributes:
        kind: ``decided``: the leader is better than any other by more than the margin. Or an abstention: ``close``
            (another may be as good, and little is lost by the choice) or ``thin`` (the choice is expected to lose more
            than the margin).
        choice: The candidate to take; of an abstention the cheapest of those that are as good as the leader.
        second: The best of the others, of an abstention without those that are ruled out.
        contenders: Those that more runs would have to compare, the most likely first; empty if there is nothing to
            gain.
        ruled_out: Those that are worse than the choice, each with 90 % probability and by more than the margin on
            average.
        p_best: Probability of being best, of each.
        regret: Expected distance to the best, of each.
    """

    kind: DecisionKind
    choice: int
    second: int
    contenders: tuple[int, ...]
    ruled_out: tuple[int, ...]
    p_best: tuple[float, ...]
    regret: tuple[float, ...]

    @property
    def abstains(self) -> bool:
        return self.kind != "decided"


def decide(values: Floats, costs: Sequence[float], margin: float) -> Decision:
    """The decision from draws of the candidates' values [draws, candidates]; of equals the one of least cost is taken.

    `margin`: the difference of values that does not matter. The choice minimises the expected opportunity cost, which
    also says when to stop measuring (Chick & Inoue 2001).
    """
    best, means = values.max(axis=1), values.mean(axis=0)
    is_best = np.isclose(values, best[:, None], rtol=1e-12, atol=1e-12)
    p_best = (is_best / is_best.sum(axis=1, keepdims=True)).mean(axis=0)
    regret = (best[:, None] - values).mean(axis=0)
    leader, *others = (int(k) for k in np.argsort(-means, kind="stable"))

    def beaten_by(one: int) -> tuple[int, ...]:
        rest = (k for k in range(len(means)) if k != one and means[one] - means[k] > margin)
        return tuple(k for k in rest if (values[:, one] > values[:, k]).mean() >= SURE)

    kind: DecisionKind = (
        "decided" if len(beaten_by(leader)) == len(others) else "thin" if regret[leader] > margin else "close"
    )
    as_good = [k for k in others if means[leader] - means[k] <= margin / 4]
    choice = leader if kind == "decided" else min((leader, *as_good), key=lambda k: (costs[k], -means[k]))
    matters = kind == "thin" or (kind == "close" and regret[leader] > margin / 4)
    ruled_out = beaten_by(choice)
    second = next((k for k in (leader, *others) if k != choice and k not in ruled_out), others[0])
    may_win = [k for k in others if (values[:, k] - values[:, leader] > margin / 4).mean() > (1 - SURE) / 4]
    rivals = sorted(may_win, key=lambda k: -p_best[k])
    return Decision(
        kind=kind,
        choice=choice,
        second=second,
        contenders=(leader, *rivals) if matters and rivals else (),
        ruled_out=ruled_out,
        p_best=tuple(p_best.tolist()),
        regret=tuple(regret.tolist()),
    )
