"""The decision abstains where it should, and takes the cheaper of equals."""

from __future__ import annotations

import numpy as np

from src.advise.answer import next_fraction
from src.advise.curves import Curve, forecast
from src.advise.decision import decide

RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal((2000, 3))


def test_a_clear_winner_is_named_with_its_probability_and_no_regret() -> None:
    found = decide(np.array([90.0, 80.0, 70.0]) + NOISE, [3, 2, 1], margin=1)
    assert (found.kind, found.choice, found.second, found.contenders) == ("decided", 0, 1, ())
    assert found.ruled_out == (1, 2)
    assert found.p_best[0] > 0.99
    assert found.regret[0] < 0.01
    assert 9 < found.regret[1] < 11


def test_of_equals_it_claims_none_and_takes_the_cheaper() -> None:
    found = decide(90 + 0.05 * NOISE, [3, 1, 2], margin=1)
    assert found.abstains
    assert (found.kind, found.choice, found.contenders, found.ruled_out) == ("close", 1, (), ())


def test_thin_evidence_names_the_contenders_alone() -> None:
    found = decide(np.array([90.0, 89.0, 40.0]) + 4 * NOISE, [1, 1, 1], margin=1)
    assert found.abstains
    assert (found.kind, found.contenders, found.ruled_out) == ("thin", (0, 1), (2,))


def test_a_candidate_that_is_ruled_out_is_not_said_to_be_better() -> None:
    """The second by mean is certainly worse; the third, which varies more, may be better."""
    values = np.array([90.0, 87.0, 80.0]) + np.array([0.1, 0.1, 12.0]) * NOISE
    found = decide(values, [1, 1, 1], margin=1)
    assert (found.kind, found.choice, found.second, found.ruled_out) == ("thin", 0, 2, (1,))


def test_a_lead_that_is_not_certain_is_close_if_little_is_lost() -> None:
    found = decide(np.array([90.0, 88.5, 40.0]) + 1.5 * NOISE, [2, 1, 1], margin=1)
    assert (found.kind, found.choice, found.contenders) == ("close", 0, (0, 1))


def test_the_same_curve_under_two_names_is_no_preference() -> None:
    n = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = np.array([0.4, 0.3, 0.23, 0.19])[:, None]
        twins = [
            Curve(sizes=[50, 100, 200, 400], errors=np.abs(truth + 0.02 * rng.standard_normal((4, 3))))
            for _ in range(2)
        ]
        n += decide(100 * (1 - forecast(twins, 1600, n_draws=500).draws), [1, 1], margin=1).abstains
    assert n >= 38


def test_the_last_step_of_the_pilot_is_all_data_so_that_nothing_is_forecast() -> None:
    assert [next_fraction(reached) for reached in (0.2, 0.495, 0.6)] == [0.4, 1.0, 1.0]
