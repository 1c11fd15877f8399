"""The three forms of the table agree, and the table fits an 80-column terminal.

Properties: the varying axes and no others are columns, sorted as numbers; percentages and points have fixed decimals; no
line is wider than the terminal and no number is cut; an undefined p is empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from src.axes import axis_order
from src.comparison.pairing import load_records
from src.comparison.tables import (
    csv_table,
    remarks,
    sweep_table,
    terminal_table,
    varying_axes,
)
from src.comparison.text_table import TextTable
from src.comparison.verdicts import UNDECIDED, CellVerdict, judge

REGIMES = ("sequential", "combined", "replay(share=0.05)")


@pytest.fixture
def grid(sweep: Path, run_writer: Callable[..., Path]) -> list[CellVerdict]:
    """2 ratios x 2 imbalances x 2 lengths, three regimes, 6 seeds: sequential 12 points behind at ratio 10."""
    rng = np.random.default_rng(0)
    coordinates = [
        (ratio, imbalance, epochs) for ratio in (10.0, 0.1) for imbalance in (20.0, 5.0) for epochs in (20, 5)
    ]
    for cell, (ratio, imbalance, epochs) in enumerate(coordinates):
        axes = {"ratio": ratio, "imbalance": imbalance, "epochs": epochs}
        for seed in range(6):
            for regime in REGIMES:
                value = 0.9 + rng.normal(0, 0.01) - (0.123 if regime == "sequential" and ratio == 10 else 0)
                run_writer(sweep, f"cell{cell}", regime, seed, value, axes=axes, converged=cell > 0)
    return judge(load_records(sweep), REGIMES[:2])


def printed(verdicts: list[CellVerdict], width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(terminal_table(verdicts, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_only_varying_axes_are_columns_and_rows_are_sorted_as_numbers(grid: list[CellVerdict]) -> None:
    assert varying_axes(grid) == {"ratio": [0.1, 10.0], "imbalance": [5.0, 20.0], "epochs": [5, 20]}
    assert [row[:3] for row in sweep_table(grid).rows[:5]] == [
        ("0.1", "5", "5"),
        ("0.1", "5", "20"),
        ("0.1", "20", "5"),
        ("0.1", "20", "20"),
        ("10", "5", "5"),
    ]


def test_cells_that_no_axis_distinguishes_are_identified_by_their_hash(cell_of: Callable[..., object]) -> None:
    cell_of({"a": [0.5], "b": [0.5]}, cell="abcdef0123456789")
    records = cell_of({"a": [0.5], "b": [0.5]}, cell="1234567890abcdef")
    assert varying_axes(judge(records, ("a", "b"))) == {"cell": ["12345678", "abcdef01"]}  # type: ignore[arg-type]


def test_words_with_amounts_are_sorted_by_the_amount() -> None:
    shifts = ["rotate:30", "none", "noise:0.2", "rotate:5", 3, 0.5]
    assert sorted(shifts, key=axis_order) == ["none", 0.5, 3, "noise:0.2", "rotate:5", "rotate:30"]  # type: ignore[arg-type]
    widths = ["[128]", "[64,64]", "[]", "[32]", "[128,8]"]
    assert sorted(widths, key=axis_order) == ["[]", "[32]", "[128]", "[64,64]", "[128,8]"]


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("n_regimes", [2, 3])
def test_every_number_is_whole_and_no_line_is_too_wide(
    grid: list[CellVerdict], sweep: Path, width: int, n_regimes: int
) -> None:
    verdicts = grid if n_regimes == 2 else judge(load_records(sweep), REGIMES)
    lines = printed(verdicts, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for row in sweep_table(verdicts).rows:
        mean_a, difference, interval = (row[k] for k in ((3 if n_regimes == 2 else 4), -5, -4))
        assert all(word in text for word in (mean_a, difference, interval))
    assert "…" not in text


def test_two_regimes_fit_on_one_line_a_cell_at_80_columns(grid: list[CellVerdict]) -> None:
    lines = printed(grid, 80)
    assert len([line for line in lines if line.strip()]) == len(grid) + 3  # heading, rule and what a and b are
    assert lines[-1].strip() == "a: sequential, b: combined; a - b in points"
    *_, difference, interval, _, _, _ = sweep_table(grid).rows[4]
    assert any(difference in line and interval in line and line.rstrip().endswith("too few seeds") for line in lines)


@pytest.mark.usefixtures("grid")
def test_three_regimes_at_80_columns_keep_their_names_whole(sweep: Path) -> None:
    verdicts = []
    for verdict in judge(load_records(sweep), REGIMES):
        own = replace(verdict, differences=(-0.271,) * 12, seeds=tuple(range(12)), ci_low=-0.275, ci_high=-0.223)
        own = replace(own, winner="sequential", axes={"ratio": verdict.axes["ratio"]}, p_holm=0.003)
        if verdict.cell in ("cell0", "cell7"):
            verdicts.append(replace(own, elsewhere=dict.fromkeys(("d1", "d2", "balanced"), own)))
    lines = printed(verdicts, 80)
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if "sequential" in line]
    assert all(set(row) & {"combined", "replay"} for row in rows)
    assert not any("seque" in line.replace("sequential", "") for line in lines)
    assert "all columns are in table.md" in lines[-1]
    wide = " ".join(printed(verdicts, 120))
    assert "bal" in wide
    assert "table.md" not in wide


@pytest.mark.parametrize(("width", "lines_a_cell"), [(80, 2), (100, 1)])
def test_narrow_tables_break_no_word(grid: list[CellVerdict], width: int, lines_a_cell: int) -> None:
    winners = [
        ("combined", "barring collapses", "added"),
        ("sequential", "barring collapses", ""),
        (UNDECIDED, "", ""),
    ]
    verdicts = []
    for number, verdict in enumerate(grid):
        winner, caveat, added = winners[number % 3]
        own = replace(verdict, differences=(-0.271,) * 12, seeds=tuple(range(12)), ci_low=-0.275, ci_high=-0.223)
        own = replace(own, winner=winner, caveat=caveat, exploratory=added, p_holm=0.003)
        verdicts.append(replace(own, elsewhere=dict.fromkeys(("d1", "d2", "balanced"), own)))
    lines = printed(verdicts, width)
    assert max(map(len, lines)) <= width
    assert len(lines) == lines_a_cell * (1 + len(verdicts) + 1) + 1, "heading, rows, caption and rule"
    text = " ".join(" ".join(lines).split())
    assert all(word in text for word in (" a % b % ", " bal. ", "combined", "sequential", "undecided", "(c, e)"))
    assert text.endswith("a: sequential, b: combined; a - b in points; c: barring collapses; e: exploratory")


def test_a_table_that_is_too_wide_drops_what_may_go_and_then_breaks_names_before_their_knobs() -> None:
    row = ("replay(share=0.5)", "12345", "1234567890")
    table = TextTable(heads=("regime", "extra", "value"), rows=(row,), align="lrr")
    assert table.fitting(40, ["extra"]) == table
    assert table.fitting(30, ["extra"]) == table.without({"extra"})
    assert table.fitting(25, ["extra"]).rows == (("replay\n(share=0.5)", "1234567890"),)


def test_long_tables_end_in_a_count(grid: list[CellVerdict]) -> None:
    console = Console(width=100, file=io.StringIO())
    console.print(terminal_table(grid, width=100, max_rows=3))
    assert isinstance(console.file, io.StringIO)
    assert "5 more rows in the CSV" in console.file.getvalue()


def test_markdown_has_one_row_a_verdict_and_marks_winners(grid: list[CellVerdict], sweep: Path) -> None:
    lines = sweep_table(grid).markdown().splitlines()
    assert lines[0].startswith(
        "| ratio | imbalance | epochs | sequential % | combined % | sequential - combined, points |"
    )
    assert len(lines) == 2 + len(grid)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert "**" not in lines[2]
    nine = sweep_table(judge(load_records(sweep, cells=["cell0"]), REGIMES[:2])).markdown()
    assert "| **combined** (barring collapses) |" in nine


def test_csv_values_are_in_points(grid: list[CellVerdict]) -> None:
    read = list(csv.DictReader(io.StringIO(csv_table(grid))))
    assert len(read) == len(grid)
    by_cell = {verdict.cell: verdict for verdict in grid}
    for row in read:
        verdict = by_cell[row["cell"]]
        assert verdict.difference is not None
        assert float(row["difference"]) == pytest.approx(100 * verdict.difference, abs=5e-4)
        assert (float(row["ratio"]), row["data"], row["unit"]) == (verdict.axes["ratio"], "digits", "points")
        assert (row["p_holm"], row["winner"]) == ("", "too few seeds")  # 6 seeds cannot decide 8 cells
    assert float(read[0]["p"]) == pytest.approx(by_cell[read[0]["cell"]].p, abs=1e-6)


def test_remarks_shared_by_many_rows_appear_once(grid: list[CellVerdict]) -> None:
    lines = remarks(grid)
    assert "too few seeds: 6 cannot decide 8 comparisons at once, 9 can (8 rows)" in lines
    assert "ratio 10, imbalance 20, epochs 20: 12 of 12 stages not converged" in lines


def test_a_table_for_latex_escapes_what_latex_reads_and_keeps_the_emphasis() -> None:
    table = TextTable(heads=("data_set", "a - b, %"), rows=(("50 % & more", "**+1.2**"), ("$x^2$\\", "-")), align="lr")
    assert table.latex().splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"data\_set & a - b, \% \\",
        r"\midrule",
        r"50 \% \& more & \textbf{+1.2} \\",
        r"\$x\^{}2\$\textbackslash{} & - \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
