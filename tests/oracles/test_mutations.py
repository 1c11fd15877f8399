"""A planted error is noticed: for one mutation of each part, rows that pass without it fail with it."""

from __future__ import annotations

import pytest

from benchmarks.mutate import CASES, Case

FAST = [case for case in CASES if case.part != "split"]  # that one needs hundreds of seeds: make mutate


def test_every_part_is_mutated() -> None:
    assert {case.part for case in CASES} == {"split", "plan", "stopping", "penalty", "evaluation"}


@pytest.mark.parametrize("case", FAST, ids=lambda case: case.mutation.__name__)
def test_planted_error_is_noticed(case: Case) -> None:
    with case.mutation():
        rows = list(case.rows())
    assert any(not row.passed for row in rows), case.mutation.__doc__
