"""Data that arrive in batches: what to do at each arrival, by dynamic programming over predicted values."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from src.comparison.statistics import Floats

NOTHING, FINE_TUNE, REPLAY, RETRAIN = "nothing", "fine-tune", "replay", "retrain"
ACTIONS = {"d1_only": NOTHING, "sequential": FINE_TUNE, "replay": REPLAY, "combined": RETRAIN}
"""The action that each regime is."""

Policy = tuple[str, ...]
"""An action for each arrival."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlook:
    """What is predicted of the actions. Values are in points, for the time from one arrival to the next.

    An update trains on what has arrived since the last one; retraining on everything.

    Attributes:
        start: Samples of Dataset 1, on which the initial model was trained.
        batches: Samples of each arrival.
        before: Value of the initial model [draws].
        after: Action -> the value of a model that it updated at each arrival [draws, arrivals].
        price: Action -> price of training on one sample.
        worth: Worth of a point, in the unit of the price.
    """

    start: int
    batches: Sequence[int]
    before: Floats
    after: Mapping[str, Floats]
    price: Mapping[str, float]
    worth: float

    @property
    def actions(self) -> Policy:
        return (NOTHING, *self.after)

    def cost(self, action: str, arrival: int, updated: int) -> float:
        """Price of an action at an arrival, of a model whose last update was at arrival `updated`; -1: none."""
        if action == NOTHING:
            return 0.0
        new = sum(self.batches[updated + 1 : arrival + 1])
        seen = self.start + sum(self.batches[: arrival + 1])
        return self.price[action] * (seen if action == RETRAIN else new)

    def costs(self, policy: Policy) -> list[float]:
        """The price of each action of a policy."""
        updated, found = -1, []
        for arrival, action in enumerate(policy):
            found.append(self.cost(action, arrival, updated))
            updated = updated if action == NOTHING else arrival
        return found

    def values(self, policy: Policy) -> Floats:
        """The value after each arrival under a policy [draws, arrivals]."""
        value, found = self.before, []
        for arrival, action in enumerate(policy):
            value = value if action == NOTHING else self.after[action][:, arrival]
            found.append(value)
        return np.stack(found, axis=1)

    def net(self, policy: Policy) -> Floats:
        """Worth of a policy over all arrivals less its price [draws]."""
        return np.asarray(self.worth * self.values(policy).sum(axis=1) - sum(self.costs(policy)))


def best_policy(outlook: Outlook) -> Policy:
    """The policy of the highest expected net worth, by backward induction; of equals the one that trains later or less.

    The state is the last update: it alone determines the present value and what the next update has to train on.
    """
    before, n = float(outlook.before.mean()), len(outlook.batches)
    after = {action: values.mean(axis=0) for action, values in outlook.after.items()}

    @functools.cache
    def best(arrival: int, updated: int, by: str) -> tuple[float, Policy]:
        if arrival == n:
            return 0.0, ()
        found = []
        for action in outlook.actions:
            last = (updated, by) if action == NOTHING else (arrival, action)
            value = before if last[0] < 0 else float(after[last[1]][last[0]])
            rest, policy = best(arrival + 1, *last)
            net = outlook.worth * value - outlook.cost(action, arrival, updated) + rest
            found.append((net, (action, *policy)))
        return max(found, key=lambda one: round(one[0], 9))

    return best(0, -1, NOTHING)[1]


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One rule for all arrivals, and by how much the policy is worth more, with a 90 % interval."""

    action: str
    net: float
    lead: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """One arrival under the policy: predicted value afterwards with a 90 % interval, and price."""

    batch: int
    action: str
    value: float
    low: float
    high: float
    cost: float


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The policy for all arrivals, its net worth, and the rules that it is compared with."""

    steps: tuple[Step, ...]
    net: float
    rivals: tuple[Rival, ...]


def schedule(outlook: Outlook) -> Schedule:
    """The best policy, compared with each action at every arrival."""
    policy = best_policy(outlook)
    net, steps, rivals = outlook.net(policy), [], []
    columns = zip(outlook.batches, policy, outlook.values(policy).T, outlook.costs(policy), strict=True)
    for batch, action, values, cost in columns:
        low, high = _interval(values)
        steps.append(Step(batch=batch, action=action, value=float(values.mean()), low=low, high=high, cost=cost))
    for action in outlook.actions:
        other = outlook.net((action,) * len(policy))
        low, high = _interval(net - other)
        lead = float((net - other).mean())
        rivals.append(Rival(action=action, net=float(other.mean()), lead=lead, low=low, high=high))
    return Schedule(steps=tuple(steps), net=float(net.mean()), rivals=tuple(rivals))


def _interval(draws: Floats) -> tuple[float, float]:
    """The ends of the 90 % interval."""
    low, high = np.percentile(draws, (5, 95))
    return float(low), float(high)
