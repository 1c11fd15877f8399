"""A headline never rests on the union alone: the other test sets stand next to it in table, sentence, map and tracker.

Properties: a winner on the union by what is forgotten of Dataset 1 is seen not to win on Dataset 2; columns and marks agree with
the verdicts by each metric; the map has a panel for each test set.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from benchmarks.collapse import records_of
from src.comparison import tables
from src.comparison.maps import difference_figure
from src.comparison.pairing import Records
from src.comparison.sentences import sentence_elsewhere, summary
from src.comparison.tables import remarks, sweep_table
from src.comparison.verdicts import UNDECIDED, CellVerdict, judge, judge_test_sets
from src.sweep import mlflow_columns
from src.sweep.mlflow_columns import cell_metrics

BOTH = ("sequential", "combined")
HIGH = [0.9 + seed / 1000 for seed in range(12)]


def forgetting(n_cells: int) -> Records:
    """Sequential is 3 points behind on the union and 6 on Dataset 1, and equal on Dataset 2."""
    runs = []
    for k in range(n_cells):
        for regime, values in (("sequential", [v - 0.03 - k / 100 for v in HIGH]), ("combined", HIGH)):
            for run in records_of({f"c{k}": (values, values)}).runs:
                if run.regime == regime:
                    union = run.result["metrics"]["test/union/accuracy"]
                    lost = HIGH[run.seed] - union
                    metrics = {"test/d1/accuracy": union - lost, "test/d2/accuracy": HIGH[run.seed]}
                    metrics |= {"test/union/balanced_accuracy": union}
                    axes = {"ratio": 1.0 + k, "imbalance": 1.0}
                    result = {**run.result, "metrics": {**run.result["metrics"], **metrics}}
                    runs.append(dataclasses.replace(run, result=result, axes=axes))
    return Records(runs=tuple(runs))


def verdicts_of(n_cells: int) -> list[CellVerdict]:
    records = forgetting(n_cells)
    return judge_test_sets(records, BOTH)


def test_the_summary_counts_the_winners_on_every_test_set() -> None:
    text = summary(verdicts_of(4))
    assert text.startswith(
        "Combined wins 4 of 4 cells on the union, 4 on Dataset 1, 0 on Dataset 2, 4 in balanced accuracy; "
        "sequential 0, 0, 0, 0. Accuracy on union, Holm over 4: 0 undecided"
    )
    assert "Averages elsewhere: -9.0 [-9.0, -9.0] on Dataset 1, 0.0 [0.0, 0.0] on Dataset 2" in text


def test_the_regime_that_wins_more_cells_is_named_first() -> None:
    records = forgetting(4)
    text = summary(judge_test_sets(records, tuple(reversed(BOTH))))
    assert text.startswith("Combined wins 4 of 4 cells on the union, 4 on Dataset 1"), "whatever the order of the two"


def test_a_summary_without_any_winner_says_so_first() -> None:
    verdicts = [
        dataclasses.replace(
            own,
            winner=UNDECIDED,
            elsewhere={k: dataclasses.replace(v, winner=UNDECIDED) for k, v in own.elsewhere.items()},
        )
        for own in verdicts_of(4)
    ]
    assert summary(verdicts).startswith("Neither combined nor sequential wins any of the 4 cells, on the union or else")


def test_one_cell_is_described_on_every_test_set() -> None:
    (verdict,) = verdicts_of(1)
    expected = "On Dataset 1: -6.0 (combined); on Dataset 2: 0.0 (undecided); in balanced accuracy: -3.0 (combined)."
    assert sentence_elsewhere(verdict) == expected
    assert summary([verdict]).endswith(expected)
    assert sentence_elsewhere(judge(forgetting(1), BOTH)[0]) == ""


def test_the_table_has_a_column_for_each_test_set() -> None:
    table = sweep_table(verdicts_of(2))
    start = table.heads.index("d1")
    assert table.heads[start : start + 3] == ("d1", "d2", "balanced")
    assert [row[start : start + 3] for row in table.rows] == [("-6.0*", "0.0", "-3.0*"), ("-8.0*", "0.0", "-4.0*")]
    assert any(line.startswith("d1: the difference on Dataset 1") for line in remarks(verdicts_of(2)))


def test_the_map_has_a_panel_for_each_test_set() -> None:
    titles = [ax.get_title() for ax in difference_figure(verdicts_of(3)).axes]
    assert titles[:4] == ["on Dataset 1", "on Dataset 2", "on the union", "on the union, classes balanced"]


def test_the_tracker_has_the_differences_on_every_test_set() -> None:
    metrics = cell_metrics(forgetting(1).runs, BOTH)
    found = {
        key: metrics[f"delta/sequential-combined/{key}"] for key in ("d1/accuracy", "d2/accuracy", "union/accuracy")
    }
    assert found == pytest.approx({"d1/accuracy": -0.06, "d2/accuracy": 0, "union/accuracy": -0.03})
    assert metrics["delta/sequential-combined/union/balanced_accuracy"] == pytest.approx(-0.03)


def test_a_regression_has_rmse_and_r2_beside_its_loss() -> None:
    runs = []
    for run in forgetting(1).runs:
        rmse = (2.0 if run.regime == "combined" else 3.0) + run.seed / 100
        found = {"test/union/accuracy": None, "test/union/loss": rmse**2, "test/union/rmse": rmse}
        found |= {"test/union/r2": 0.8 if run.regime == "combined" else 0.55}
        runs.append(dataclasses.replace(run, result={**run.result, "metrics": found}))
    records = Records(runs=tuple(runs))
    (verdict,) = judge_test_sets(records, BOTH)
    assert sentence_elsewhere(verdict) == "In RMSE: +1.0000 (combined); in R2: -0.2500 (combined)."
    table = sweep_table([verdict])
    start = table.heads.index("RMSE")
    assert table.heads[start : start + 2] == ("RMSE", "R2")
    assert table.rows[0][start : start + 2] == ("+1.0000*", "-0.2500*")
    (line,) = [line for line in remarks([verdict]) if line.startswith("RMSE")]
    assert line.startswith("RMSE: the difference in RMSE, R2: the difference in R2 (higher is better)")
    metrics = cell_metrics(runs, BOTH)
    assert metrics["delta/sequential-combined/union/r2"] == pytest.approx(-0.25)
    assert "delta/sequential-combined/union/rmse" in metrics


def changed(records: Records, cell: str, of: str, **changes: Any) -> Records:
    """The records with other fields in the runs of one regime in one cell."""
    runs = (
        dataclasses.replace(run, **changes) if (run.cell, run.regime) == (cell, of) else run for run in records.runs
    )
    return Records(runs=tuple(runs))


def test_a_cells_metrics_are_taken_from_its_verdicts_and_equal_those_judged_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = changed(changed(forgetting(4), "c1", "combined", diverged=True), "c2", "sequential", regime="replay")
    three = (*BOTH, "replay")
    for regimes, baseline in ((BOTH, None), (three, None), (three, "combined")):
        verdicts = judge_test_sets(records, regimes, baseline=baseline)
        for cell in ("c0", "c1", "c2", "c3"):
            runs = [run for run in records.runs if run.cell == cell]
            own = [verdict for verdict in verdicts if verdict.cell == cell]
            alone = cell_metrics(runs, regimes)
            assert cell_metrics(runs, regimes, known=own) == alone
            assert list(cell_metrics(runs, regimes, known=own)) == list(alone), "in one order"
            if baseline is None:
                with monkeypatch.context() as patch:
                    patch.setattr(mlflow_columns, "judge", None)
                    assert cell_metrics(runs, regimes, known=own) == alone, "nothing is judged twice"


def test_the_table_looks_for_its_columns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts, asked = judge_test_sets(forgetting(5), BOTH), []
    original = tables.other_test_sets

    def counted(given: Any) -> list[str]:
        asked.append(len(given))
        return original(given)

    monkeypatch.setattr(tables, "other_test_sets", counted)
    assert len(sweep_table(verdicts).rows) == 5
    assert asked == [5], "a look for each row would be quadratic"
