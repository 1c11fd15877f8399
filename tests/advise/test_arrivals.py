"""The policy for arrivals: on planted curves it is the one that brute force finds, and known in simple cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from src.advise.arrivals import FINE_TUNE, NOTHING, REPLAY, RETRAIN, Outlook, best_policy, schedule


def planted(seed: int, n: int = 4, worth: float = 1.0, price: float = 0.02) -> Outlook:
    """Values that rise with the samples: retraining reaches most, replay and fine-tuning less, for less."""
    rng = np.random.default_rng(seed)
    batches = [int(b) for b in rng.integers(20, 400, n)]
    seen = 500 + np.cumsum(batches)
    reach = {RETRAIN: 1.0, REPLAY: rng.uniform(0.7, 1.1), FINE_TUNE: rng.uniform(0.3, 1.0)}
    noise = rng.standard_normal((50, 1))
    after = {a: 60 + share * 30 * (1 - (500 / seen) ** rng.uniform(0.3, 1.5)) + noise for a, share in reach.items()}
    return Outlook(
        start=500,
        batches=batches,
        before=60 + noise[:, 0],
        after=after,
        price={RETRAIN: price, REPLAY: 1.5 * price, FINE_TUNE: price},
        worth=worth,
    )


@pytest.mark.parametrize("price", [0.0, 0.003, 0.01, 0.03, 10.0])
def test_the_policy_is_that_of_brute_force(price: float) -> None:
    found = set()
    for seed in range(6):
        outlook = planted(seed, price=price)
        policies = itertools.product(outlook.actions, repeat=4)
        best = max(float(outlook.net(policy).mean()) for policy in policies)
        policy = best_policy(outlook)
        assert float(outlook.net(policy).mean()) == pytest.approx(best, abs=1e-6)
        found |= set(policy)
    if price == 10.0:
        assert found == {NOTHING}
    if price == 0.0:
        assert NOTHING not in found
    if price == 0.01:
        assert len(found) > 1


def test_an_update_trains_on_what_came_since_the_last_one() -> None:
    outlook = planted(0)
    a, b, c, d = outlook.batches
    costs = outlook.costs((NOTHING, FINE_TUNE, RETRAIN, REPLAY))
    assert costs == pytest.approx([0, 0.02 * (a + b), 0.02 * (500 + a + b + c), 0.03 * d])
    values = outlook.values((NOTHING, FINE_TUNE, NOTHING, RETRAIN))
    assert (values[:, 0] == outlook.before).all()
    assert (values[:, 2] == outlook.after[FINE_TUNE][:, 1]).all()


def test_the_schedule_leads_every_single_rule_and_says_by_how_much() -> None:
    for seed in range(5):
        plan = schedule(planted(seed, price=0.01))
        assert {rival.action for rival in plan.rivals} == {NOTHING, FINE_TUNE, REPLAY, RETRAIN}
        for rival in plan.rivals:
            assert rival.lead == pytest.approx(plan.net - rival.net)
            assert rival.lead >= -1e-9
            assert rival.low <= rival.lead + 1e-9 <= rival.high + 2e-9
        assert all(step.low <= step.value <= step.high for step in plan.steps)
