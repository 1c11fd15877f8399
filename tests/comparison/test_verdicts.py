"""A regime wins only if the corrected exact test is significant, and the sentences agree with the values.

Properties: the winner is the better side for either direction of the metric; more cells need more evidence; too few seeds
are reported and have no p; a cell without a verdict is inconclusive with a reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.comparison.maps import _legend_lines
from src.comparison.pairing import Records, load_records
from src.comparison.sentences import overall, sentence, summary
from src.comparison.statistics import sign_flip_interval, sign_flip_p
from src.comparison.tables import csv_table, remarks, sweep_table
from src.comparison.verdicts import INCONCLUSIVE, TOO_FEW, UNDECIDED, Rules, default_metric, judge
from src.sweep.mlflow_columns import cell_metrics

BOTH = ("sequential", "combined")
HIGH = [0.9 + seed / 1000 for seed in range(12)]
LOW = [value - 0.03 - seed / 400 for seed, value in enumerate(HIGH)]


def test_the_better_side_wins_in_either_order(cell_of: Callable[..., Records]) -> None:
    records = cell_of({"sequential": LOW, "combined": HIGH})
    (verdict,) = judge(records, BOTH)
    assert (verdict.winner, verdict.n, verdict.family) == ("combined", 12, 1)
    assert verdict.p == verdict.p_holm == 2.0**-11
    differences = np.array(LOW) - np.array(HIGH)
    assert verdict.difference == pytest.approx(differences.mean())
    assert (verdict.ci_low, verdict.ci_high) == pytest.approx(tuple(float(x) for x in sign_flip_interval(differences)))
    (other,) = judge(records, BOTH[::-1])
    assert (other.winner, other.difference) == ("combined", pytest.approx(-differences.mean()))


def test_the_lower_loss_wins(cell_of: Callable[..., Records]) -> None:
    (verdict,) = judge(cell_of({"sequential": LOW, "combined": HIGH}), BOTH, "test/d2/loss")
    assert verdict.winner == "combined"
    assert verdict.difference is not None
    assert verdict.difference > 0


def without_classes(records: Records, *, with_risk: bool) -> Records:
    """The same runs as a regression: no accuracy; with a known distribution, a risk in addition to the loss."""
    runs = []
    for run in records.runs:
        values = {test: 1 - (run.metric(f"test/{test}/accuracy") or 0.0) for test in ("d1", "d2", "union")}
        metrics: dict[str, float | None] = {f"test/{test}/accuracy": None for test in values}
        metrics |= {f"test/{test}/loss": 5.0 for test in values}  # equal losses, so that no regime wins by loss
        if with_risk:
            metrics |= {f"test/{test}/risk": value for test, value in values.items()}
        runs.append(dataclasses.replace(run, result={**run.result, "metrics": metrics}))
    return dataclasses.replace(records, runs=tuple(runs))


def test_a_regression_is_judged_by_risk_or_else_by_loss(cell_of: Callable[..., Records]) -> None:
    records = cell_of({"sequential": LOW, "combined": HIGH})
    assert default_metric(records.runs) == default_metric(()) == "test/union/accuracy"
    known = without_classes(records, with_risk=True)
    (verdict,) = judge(known, BOTH)
    assert (verdict.metric, verdict.winner) == ("test/union/risk", "combined")
    assert verdict.difference is not None
    assert verdict.difference > 0, "the larger risk loses"
    assert sentence(verdict).startswith("combined wins in risk on union by 0.0")
    assert remarks([verdict])[0].startswith("Lower risk on union is better")
    assert set(cell_metrics(known.runs, BOTH)) >= {f"delta/sequential-combined/{t}/risk" for t in ("d1", "d2", "union")}
    (verdict,) = judge(without_classes(records, with_risk=False), BOTH)
    assert (verdict.metric, verdict.winner) == ("test/union/loss", UNDECIDED)
    one_unknown = dataclasses.replace(known, runs=(*known.runs[1:], without_classes(records, with_risk=False).runs[0]))
    assert default_metric(one_unknown.runs) == "test/union/loss", "a metric that only some runs have is not comparable"


def test_the_sentence_gives_a_winners_margin_or_the_difference_of_a_tie(cell_of: Callable[..., Records]) -> None:
    (verdict,) = judge(cell_of({"sequential": LOW, "combined": HIGH}), BOTH)
    expected = "combined wins on union by 4.4 points [3.8, 5.0], p < 0.001, n = 12 seeds"
    assert sentence(dataclasses.replace(verdict, caveat="")) == expected
    assert sentence(verdict) == f"{expected} ({verdict.caveat})"
    (tie,) = judge(cell_of({"sequential": HIGH, "combined": HIGH}, cell="c1"), BOTH)[1:]
    assert (
        sentence(tie)
        == "undecided on union: sequential - combined = 0.0 points [0.0, 0.0], p = 1.000 (Holm over 2), n = 12 seeds"
    )


def test_five_seeds_give_no_p_and_no_interval(cell_of: Callable[..., Records]) -> None:
    records = cell_of({"sequential": LOW[:5], "combined": HIGH[:5]})
    (verdict,) = judge(records, BOTH)
    assert verdict.p is verdict.p_holm is verdict.ci_low is verdict.ci_high is None
    assert (verdict.winner, verdict.reason) == (TOO_FEW, "too few seeds: 5 cannot decide a comparison, 6 can")
    assert set(cell_metrics(records.runs, BOTH)) == {
        f"delta/sequential-combined/{t}/accuracy" for t in ("d1", "d2", "union")
    }


@pytest.mark.parametrize(("n", "n_cells", "winner"), [(8, 6, "combined"), (8, 7, TOO_FEW), (9, 12, "combined")])
def test_more_cells_need_more_seeds(
    sweep: Path, run_writer: Callable[..., Path], n: int, n_cells: int, winner: str
) -> None:
    for cell in range(n_cells):
        for seed in range(n):
            run_writer(sweep, f"c{cell:02}", "sequential", seed, LOW[seed])
            run_writer(sweep, f"c{cell:02}", "combined", seed, HIGH[seed])
    verdicts = judge(load_records(sweep), BOTH)
    assert {verdict.winner for verdict in verdicts} == {winner}
    assert all(verdict.p == 2.0 ** (1 - n) for verdict in verdicts)
    if winner == TOO_FEW:
        assert all(verdict.p_holm is None for verdict in verdicts)
        assert verdicts[0].reason == "too few seeds: 8 cannot decide 7 comparisons at once, 9 can"


def test_a_running_command_is_corrected_for_its_final_family(cell_of: Callable[..., Records]) -> None:
    records = cell_of({"sequential": LOW[:8], "combined": HIGH[:8]})
    assert judge(records, BOTH)[0].winner == "combined"
    assert judge(records, BOTH, undeclared=Rules(n_tests=30))[0].winner == TOO_FEW


def test_a_diverged_cell_is_inconclusive_and_does_not_enlarge_the_family(
    cell_of: Callable[..., Records], sweep: Path, run_writer: Callable[..., Path]
) -> None:
    cell_of({"sequential": LOW, "combined": HIGH}, cell="c0")
    cell_of({"sequential": LOW}, cell="c1")
    for seed in range(12):
        run_writer(sweep, "c1", "combined", seed, HIGH[seed], status="diverged" if seed == 3 else "finished")
    fine, diverged = judge(load_records(sweep), BOTH)
    assert (fine.winner, fine.family) == ("combined", 1)
    assert (diverged.winner, diverged.collapsed, diverged.p) == (INCONCLUSIVE, (0, 1), None)
    assert sentence(diverged) == (
        "inconclusive on union: sequential collapsed in 0 of 12 runs, combined in 1 of 12 (sign test, p = 1.000); of 11 seeds "
        "that trained in both, sequential - combined = -4.4 points, median -4.5 (sign test, p = 0.001)"
    )


def test_a_cell_with_only_failures_is_reported(sweep: Path, failure_writer: Callable[..., Path]) -> None:
    failure_writer(sweep, "c0", "combined", 0, "RuntimeError: no memory")
    (verdict,) = judge(load_records(sweep), BOTH)
    assert (verdict.winner, verdict.n, verdict.mean_a) == (INCONCLUSIVE, 0, None)
    assert verdict.notes == ("1 run failed: RuntimeError: no memory",)


def test_all_pairs_of_regimes_are_one_family(cell_of: Callable[..., Records]) -> None:
    verdicts = judge(cell_of({"a": LOW, "b": HIGH, "replay(share=0.05)": HIGH}), ("a", "b", "replay(share=0.05)"))
    assert [(v.a, v.b) for v in verdicts] == [("a", "b"), ("a", "replay(share=0.05)"), ("b", "replay(share=0.05)")]
    assert {v.family for v in verdicts} == {3}
    assert [v.winner for v in verdicts] == ["b", "replay(share=0.05)", UNDECIDED]


def test_cell_metrics_have_the_documented_names(cell_of: Callable[..., Records]) -> None:
    metrics = cell_metrics(cell_of({"sequential": LOW, "combined": HIGH}).runs, BOTH)
    keys = {
        f"delta/sequential-combined/{t}/accuracy{end}"
        for t in ("d1", "d2", "union")
        for end in ("", "/ci_low", "/ci_high", "/p")
    }
    assert set(metrics) == keys
    assert metrics["delta/sequential-combined/d2/accuracy/p"] == 2.0**-11


def test_overall_tests_each_seeds_mean_over_cells(cell_of: Callable[..., Records]) -> None:
    cell_of({"sequential": LOW, "combined": HIGH}, cell="c0")
    records = cell_of({"sequential": HIGH[:10], "combined": LOW[::-1][:10]}, cell="c1")
    verdicts = judge(records, BOTH)
    by_hand = [(x - y + z - w) / 2 for x, y, z, w in zip(LOW, HIGH, HIGH[:10], LOW[::-1], strict=False)]
    whole = overall(verdicts)
    assert whole is not None
    assert (whole.n, whole.effect) == (10, pytest.approx(np.mean(by_hand)))
    assert whole.p == float(sign_flip_p(by_hand))


def test_summary_counts_cells_in_two_sentences(cell_of: Callable[..., Records]) -> None:
    cell_of({"sequential": LOW, "combined": HIGH}, cell="c0")
    records = cell_of({"sequential": HIGH, "combined": HIGH}, cell="c1")
    text = summary(judge(records, BOTH))
    assert text.startswith(
        "Accuracy on union, Holm over 2: combined wins in 1 of 2 cells, sequential in 0; 1 undecided; 1 of "
        "the leads may be outweighed by unseen collapses."
    )
    assert text.endswith(
        "Averaged over the cells, sequential - combined is -2.2 points [-2.5, -1.9], p < 0.001, n = 12 seeds; "
        "the cells differ, from -4.4 to 0.0 (p < 0.001)."
    )


def test_summary_of_cells_without_a_comparison_names_no_correction(cell_of: Callable[..., Records]) -> None:
    """It said "Holm over 0"."""
    cell_of({"sequential": LOW}, cell="c0")
    verdicts = judge(cell_of({"sequential": LOW}, cell="c1"), BOTH)
    assert {verdict.family for verdict in verdicts} == {0}
    text = summary(verdicts)
    assert text.startswith(
        "Accuracy on union: combined wins in 0 of 2 cells, sequential in 0; 0 undecided, 2 inconclusive"
    )
    added = [dataclasses.replace(verdict, exploratory="exploratory, added on 2026-01-01") for verdict in verdicts]
    assert "exploratory, added on 2026-01-01 (2 rows)" in remarks(added)
    assert _legend_lines(verdicts)[1].startswith("bold: certain; hatched: ")


def test_summary_of_one_cell_gives_the_means(cell_of: Callable[..., Records]) -> None:
    text = summary(judge(cell_of({"sequential": LOW[:5], "combined": HIGH[:5]}), BOTH))
    assert text.startswith(
        "Too few seeds to test on union: sequential - combined = -3.5 points, spread 0.4; 5 cannot decide"
    )
    assert text.endswith("a comparison, 6 can. Means over seeds (%): sequential 86.7, combined 90.2.")
    assert "undecided" not in text


def test_summary_gives_the_number_of_seeds_needed(cell_of: Callable[..., Records]) -> None:
    cell_of({"sequential": LOW[:6], "combined": HIGH[:6]}, cell="c0")
    text = summary(judge(cell_of({"sequential": HIGH[:6], "combined": HIGH[:6]}, cell="c1"), BOTH))
    assert "0 undecided, 2 with too few seeds to test (7 needed)." in text


def test_no_worse_is_a_statement_of_its_own(cell_of: Callable[..., Records]) -> None:
    """Within the margin both are no worse though one certainly wins; beyond it the better one alone; by a loss alike."""
    near = [value - 0.004 - seed / 9000 for seed, value in enumerate(HIGH)]
    cell_of({"sequential": near, "combined": HIGH}, cell="near")
    cell_of({"sequential": LOW, "combined": HIGH}, cell="far")
    records = cell_of({"sequential": HIGH[:4], "combined": HIGH[:4]}, cell="few")
    for cell, shown, text in (("near", list(BOTH), "both"), ("far", ["combined"], "combined")):
        (verdict,) = judge(records, BOTH, undeclared=Rules(margin=0.01), cells=[cell])
        assert (verdict.winner, list(verdict.no_worse)) == ("combined", shown)
        assert verdict.no_worse["combined"] == 2.0**-12, "of two one-sided tests one null hypothesis at most is true"
        assert f"; no worse by more than 1.0 points: {' (p < 0.001) and '.join(shown)} (p < 0.001)" in sentence(verdict)
        table = sweep_table([verdict])
        assert table.rows[0][table.heads.index("no worse")] == text
        assert csv_table([verdict]).splitlines()[1].endswith(f",{text}")
        assert any(line.startswith("no worse: certainly by no more than 1.0 points") for line in remarks([verdict]))
        (loss,) = judge(records, BOTH, "test/d2/loss", undeclared=Rules(margin=0.01), cells=[cell])
        assert list(loss.no_worse) == shown
    (few,) = judge(records, BOTH, undeclared=Rules(margin=0.01), cells=["few"])
    assert (few.winner, few.no_worse) == (TOO_FEW, {})
    (without,) = judge(records, BOTH, cells=["near"])
    assert (without.margin, without.no_worse, "no worse" in sweep_table([without]).heads) == (None, {}, False)
