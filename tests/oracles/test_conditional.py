"""The laboratory reproduces the exact results on the same samples: a few rows of every kind, on both sides of n = d."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from src.oracles import conditional, montecarlo, quadratics, studies
from src.oracles.rows import Row


def _projections(setting: str) -> Callable[[], Iterator[Row]]:
    return lambda: conditional.projections(setting, conditional.SETTINGS[setting])


ROWS: dict[str, tuple[Callable[[], Iterator[Row]], int]] = {
    "projections, n < d": (_projections("d=20, n=8+8, drawn starting weights"), 5),
    "projections, three data sets": (_projections("d=20, n=6+5+4, shift .7"), 5),
    "too low a rate": (conditional.too_low_a_rate, 2),
    "metrics": (conditional.evaluations, 14),
    "penalties": (quadratics.held_back, 5),
    "the path of stage 2": (quadratics.path, 2),
    "the weight of Dataset 1": (quadratics.heavier_first, 2),
    "order of samples": (conditional.orders, 2),
    "forgetting against the angle": (conditional.forgetting_against_the_angle, 1),
}


@pytest.mark.parametrize("name", ROWS)
def test_exact_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows, n = ROWS[name]
    found = list(islice(rows(), n))
    assert len(found) == n
    assert all(row.passed for row in found), [row.cells for row in found if not row.passed]
    assert not any("NOT CONVERGED" in row.setting for row in found)
    assert not list(tmp_path.iterdir()), "nothing is left in the folder of the command"


def test_monte_carlo_rows_and_their_joint_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(montecarlo, "SEEDS", montecarlo.SEEDS[:64])
    rows, (deviation, freedom) = montecarlo.two_data_sets(montecarlo.MonteCarloSetting(40, 5, shift=0.5), block=5)
    assert [row.name for row in rows][-1] == "sequential - combined on d2"
    assert all(row.passed for row in rows), [row.cells for row in rows]
    assert freedom == 5
    assert deviation < 25


def test_no_two_cells_share_a_seed() -> None:
    seeds = [seed for block in range(30) for seed in montecarlo.seeds_of(block)]
    assert len(set(seeds)) == len(seeds)


def test_a_claim_that_theory_refutes_is_refuted() -> None:
    row = studies.more_different_forgets_more((45, 60, 75), "refuted")
    assert row.passed, row.cells
