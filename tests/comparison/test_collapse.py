"""Collapsed runs are recognised, counted and kept out of the verdicts on the mean.

Properties: the kinds of collapse are found in the record of a run, and forgetting is none of them; a run far below its
regime's others counts if its regime leads without it; a cell with a collapse has no winner and two tested statements; a
collapse elsewhere withholds a winner whose lead it may outweigh; without any, a lead that unseen collapses may outweigh is
about runs that train; a simulated collapse at equal means is rarely called different.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.collapse import records_of, scenarios, winner_rates
from src.comparison.betting import AnyStop
from src.comparison.collapse import OUTLIER, collapse_of, low_outliers, unseen_collapses
from src.comparison.pairing import Records, RunRecord
from src.comparison.sentences import sentence, summary
from src.comparison.tables import CURE, remarks, sweep_table
from src.comparison.verdicts import INCONCLUSIVE, Rules, judge

BOTH = ("sequential", "combined")


def result(
    recalls: Sequence[float], losses: dict[str, float], counts: list[list[int]], *parts: list[int]
) -> dict[str, Any]:
    metrics = {f"test/union/recall/{k}": value for k, value in enumerate(recalls)}
    metrics |= {f"train/{name}/loss": loss for name, loss in losses.items()}
    return {"metrics": metrics, "class_counts": counts, "stages": [{"parts": own} for own in parts]}


def test_the_three_kinds_of_collapse() -> None:
    even, trained = [[10, 10], [10, 10]], {"d1": 0.1, "d2": 0.2}
    assert collapse_of(result([0.9, 0.8], trained, even, [0], [1]), False) == ""
    assert collapse_of(result([0.9, 0.8], trained, even, [0], [1]), True) == "its loss is not finite"
    assert "one class" in collapse_of(result([1.0, 0.0], trained, even, [0, 1]), False)
    nothing = {"d1": math.log(2), "d2": 0.8}
    assert "not below that of a constant prediction" in collapse_of(result([0.5, 0.6], nothing, even, [0, 1]), False)


def test_forgetting_and_a_single_class_are_no_collapse() -> None:
    even = [[10, 10, 0], [0, 10, 10]]
    forgotten = {"d1": 5.0, "d2": 0.1}
    assert collapse_of(result([0.0, 0.9, 0.9], forgotten, even, [0], [1]), False) == ""
    assert collapse_of(result([0.0, 0.0, 1.0], forgotten, [[10, 10, 0], [0, 0, 10]], [0], [1]), False) == ""
    unmoved = {"d1": 0.1, "d2": 8.0}  # stage 2 learned nothing, but the network is that of stage 1
    assert collapse_of(result([0.5, 0.6, 0.1], unmoved, even, [0], [1]), False) == ""


def test_class_shares_are_the_reference_under_imbalance() -> None:
    counts, prior = [[90, 10]], -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert collapse_of(result([0.9, 0.9], {"d1": prior - 0.01}, counts, [0]), False) == ""
    assert collapse_of(result([0.9, 0.9], {"d1": prior + 0.01}, counts, [0]), False)


def test_any_loss_is_compared_with_that_of_the_constant_prediction_in_its_record() -> None:
    record = {"metrics": {"train/d1/loss": 9.0, "train/d2/loss": 1.0}, "stages": [{"parts": [0]}, {"parts": [1]}]}
    assert collapse_of(record, False) == "", "an older record of a regression has no reference"
    assert collapse_of(record, False, {"d1": 8.0, "d2": 2.0}) == ""
    assert "constant prediction" in collapse_of(record, False, {"d1": 8.0, "d2": 1.0})


def test_outliers_are_far_below_the_others_in_spreads_and_in_value() -> None:
    values = np.array([0.80, 0.81, 0.82, 0.83, 0.84, 0.85])
    assert low_outliers([*values, 0.5]).tolist() == [False] * 6 + [True]
    assert not low_outliers([*values, 0.7]).any(), "less than a quarter below the median"
    assert not low_outliers([*(values + 10 * (values - 0.825)), 0.4]).any(), "within the spread of the others"
    assert not low_outliers([0.9, 0.9, 0.9, 0.1]).any(), "too few runs"


def cell(a: Sequence[float], b: Sequence[float], name: str = "c0") -> tuple[RunRecord, ...]:
    """A cell of the two regimes; accuracies of at most 0.1 are collapsed runs."""
    return records_of({name: (np.array(a), np.array(b))}).runs


FINE = [0.90 + seed / 1000 for seed in range(12)]


def test_a_cell_with_a_collapse_gives_two_tested_statements_instead_of_a_winner() -> None:
    records = Records(runs=(*cell([0.1, *FINE[1:]], [v + 0.02 for v in FINE]), *cell(FINE, FINE, "c1")))
    first, second = judge(records, BOTH)
    assert (first.winner, first.collapsed, first.n, first.p) == (INCONCLUSIVE, (1, 0), 11, None)
    assert sentence(first) == (
        "inconclusive on union: sequential collapsed in 1 of 12 runs, combined in 0 of 12 (sign test, p = 1.000); of 11 seeds "
        "that trained in both, sequential - combined = -2.0 points, median -2.0 (sign test, p = 0.001)"
    )
    assert second.collapsed == (0, 0)
    table = sweep_table([first, second])
    assert [row[table.heads.index("collapsed")] for row in table.rows] == ["1 / 0", "0 / 0"]
    assert "cell c0: sequential collapsed (seed 0): it predicts one class for all samples" in remarks([first, second])
    assert f"cell c0: {first.reason}" in remarks([first, second])
    assert first.reason not in remarks([first]), "the sentence of a single cell has it"
    assert CURE in remarks([first])
    assert CURE not in remarks([second])
    assert "collapsed" not in sweep_table([second]).heads
    assert "1 inconclusive" in summary([first, second])
    assert "Averaged over the 1 cells without collapsed or missing runs" in summary([first, second])


def test_an_outlier_withholds_the_lead_of_its_own_regime_and_no_other() -> None:
    first = [0.4, *FINE[1:]]
    (leads,) = judge(Records(runs=cell(first, [v - 0.05 for v in FINE])), BOTH)
    assert (leads.winner, leads.collapsed) == (INCONCLUSIVE, (1, 0))
    assert f"sequential collapsed (seed 0): {OUTLIER}" in leads.notes
    (trails,) = judge(Records(runs=cell(first, [v + 0.05 for v in FINE])), BOTH)
    assert (trails.winner, trails.collapsed, trails.n) == ("combined", (0, 0), 12)


def test_a_collapse_elsewhere_withholds_a_small_lead_and_no_large_one() -> None:
    collapsing = cell([0.1, *FINE[1:]], FINE, "c0")
    small, large = cell([v + 0.05 for v in FINE], FINE, "c1"), cell(FINE, [v - 0.4 for v in FINE], "c2")
    _, first, second = judge(Records(runs=(*collapsing, *small, *large)), BOTH)
    assert first.winner == INCONCLUSIVE
    assert first.reason.startswith(
        "sequential leads by 5.0 points here, but runs of it collapse in other cells: up to 13 % may"
    )
    assert first.is_averaged, "an average over cells must not depend on their verdicts"
    assert second.winner == "sequential"
    added = judge(Records(runs=(*collapsing, *small, *large)), BOTH, undeclared=Rules(any_stop=AnyStop()))[1]
    assert (added.winner, added.decided_by) == (INCONCLUSIVE, "collapses"), "not the difference, which names a winner"
    losing = cell([v - 0.05 for v in FINE], FINE, "c3")
    assert judge(Records(runs=(*collapsing, *losing)), BOTH)[1].winner == "combined", "its lead would only grow"


def test_without_a_collapse_a_lead_that_unseen_ones_may_outweigh_is_about_runs_that_train() -> None:
    small, large = cell(FINE, [v - 0.05 for v in FINE]), cell(FINE, [v - 0.4 for v in FINE])
    (verdict,) = judge(Records(runs=small), BOTH)
    about = "barring collapses: none of 12 runs of sequential collapsed, which leaves a share of up to 22 % possible"
    assert (verdict.winner, verdict.caveat) == ("sequential", about)
    assert sentence(verdict).endswith(f"n = 12 seeds ({about})")
    assert about in remarks([verdict])
    assert sweep_table([verdict]).rows[0][-1] == "**sequential** (barring collapses)"
    (verdict,) = judge(Records(runs=large), BOTH)
    assert (verdict.winner, verdict.caveat) == ("sequential", "")
    assert sweep_table([verdict]).rows[0][-1] == "**sequential**"
    (verdict,) = judge(Records(runs=small), BOTH, "test/union/loss")
    assert verdict.caveat == ""
    many = [run for k in range(8) for run in cell(FINE, [v - 0.05 for v in FINE], f"c{k}")]
    assert {v.caveat for v in judge(Records(runs=tuple(many)), BOTH)} == {""}, "96 runs without a collapse"


def test_the_share_of_unseen_collapses_is_the_exact_binomial_bound() -> None:
    found = unseen_collapses([0.9] * 323, [0.1] * 37, 37)
    assert (found.n_runs, found.share) == (360, pytest.approx(0.1325, abs=0.001))
    assert found.cost == pytest.approx(0.8 * found.share)
    none = unseen_collapses([0.9] * 12, [], 0)
    assert (1 - none.share) ** 12 == pytest.approx(0.05)
    assert none.cost == pytest.approx(0.9 * none.share)
    assert unseen_collapses([], [], 3).cost == 0


@pytest.mark.parametrize("name", ["uncompensated", "compensated", "partial"])
@pytest.mark.parametrize(("n_cells", "n_sweeps"), [(30, 15), (1, 200)])
def test_a_simulated_collapse_at_equal_means_is_rarely_called_a_difference_of_means(
    name: str, n_cells: int, n_sweeps: int
) -> None:
    """The first regime collapses in 10 % of its runs; the sign-flip test alone calls the compensated cases in 27 %."""
    rates = winner_rates(np.random.default_rng(0), scenarios(0.1)[name], n_cells=n_cells, n_sweeps=n_sweeps)
    assert rates.of_means <= 0.06


def test_ordinary_cells_keep_their_winners() -> None:
    rates = winner_rates(np.random.default_rng(0), scenarios(0.1)["power"], n_cells=1, n_sweeps=200)
    assert rates.of_means + rates.of_trained == rates.before > 0.9
