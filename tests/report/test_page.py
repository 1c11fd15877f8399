"""The report of a grid is one complete, self-contained page.

Properties: the page loads nothing; every plot has a text alternative and a PNG next to the page; its numbers are those of the
analysis; a large grid is shown by averages and says what is left out; a second report is the same page.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from src.comparison.sentences import summary
from src.comparison.tables import csv_table
from src.comparison.verdicts import judge, judge_test_sets
from src.report.command import read_sweep
from src.report.page import write_report
from tests.report.report_page import GRID, Page, report


def test_the_page_is_self_contained(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert not page.all("script") or all("src" not in script for script in page.all("script"))
    styles = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in styles
    assert "@import" not in styles


def test_every_plot_has_a_text_alternative_and_a_png(grid: Path, page: Page) -> None:
    images = page.all("img")
    assert len(images) >= 8
    assert all(len(image["alt"] or "") > 30 for image in images)
    assert len(list((grid / "grid" / "report").glob("*.png"))) == len(images)


def test_ids_are_unique_and_every_link_has_a_target(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.all("a")} == {f"#{id_}" for id_ in ids}


def test_its_numbers_are_those_of_the_analysis(grid: Path, page: Page) -> None:
    sweep = read_sweep(grid, "grid")
    verdicts = judge(sweep.records, sweep.labels)
    assert summary(judge_test_sets(sweep.records, sweep.labels)) in page.text
    assert (grid / "grid" / "report" / "cells.csv").read_text() == csv_table(verdicts)
    rows = page.rows("cells")
    assert len(rows) == len(GRID)
    winners = sorted(verdict.winner for verdict in verdicts)
    assert sorted(row[11] for row in rows) == winners
    assert {"sequential", "combined"} <= set(winners)
    assert all(row[10] == "10" for row in rows)


def test_three_axes_give_a_map_of_every_pair(page: Page) -> None:
    labels = [a["data-label"] for tag, a in page.tags if tag == "div" and "data-label" in a]
    assert labels[0] == "all cells"
    assert set(labels[1:4]) == {"ratio × imbalance", "ratio × epochs", "imbalance × epochs"}


def test_a_large_grid_is_shown_by_averages_first_and_says_what_is_left_out(grid: Path, page: Page) -> None:
    folder = grid / "grid" / "report"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    write_report(read_sweep(grid, "grid"), most_cells=3)
    large, verdicts = Page(folder / "report.html"), judge(read_sweep(grid, "grid").records, ["sequential", "combined"])
    left_out = f"This page shows the 3 cells with the largest differences of {len(GRID)}, and no map of single cells"
    assert left_out in large.text
    assert f"python -m src.report sweep=grid multirun={grid} most_cells={len(GRID)} shows all here." in large.text
    assert (folder / "cells.csv").read_bytes() == before[folder / "cells.csv"], "the file has all cells"
    assert [a["data-label"] for tag, a in large.tags if tag == "div" and "data-label" in a][:3] == [
        a["data-label"] for tag, a in page.tags if tag == "div" and "data-label" in a
    ][1:4], "the maps of averages alone"
    assert not (folder / "map-sequential-combined.png").exists()
    levels = large.rows("cells")
    assert {row[0] for row in levels} == {"ratio", "imbalance", "epochs"}
    for axis, level, _, difference, *_, n_cells, wins_a, wins_b in levels:
        own = [verdict for verdict in verdicts if f"{verdict.axes[axis]:g}" == level]
        assert int(n_cells) == len(own)
        assert (int(wins_a), int(wins_b)) == tuple(sum(v.winner == r for v in own) for r in ("sequential", "combined"))
        mean = 100 * sum(verdict.difference or 0.0 for verdict in own) / len(own)
        assert float(difference) == pytest.approx(mean, abs=0.051)
    shown = large.source[large.source.index("Effect in every cell") :]
    assert shown[: shown.index("</table>")].count("<tr>") == 1 + 3
    largest = sorted(verdicts, key=lambda verdict: -abs(verdict.difference or 0.0))[:3]
    assert all(
        f">{100 * abs(verdict.difference or 0.0):.1f}" in shown.replace("+", "").replace("-", "") for verdict in largest
    )
    write_report(read_sweep(grid, "grid"))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before, "the whole page again"


def test_a_second_report_is_the_same_page(grid: Path, page: Page) -> None:
    assert report(grid, "grid").source == page.source


@pytest.mark.usefixtures("page")
def test_an_interrupted_report_leaves_the_plots_of_the_one_before(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    files = {path.name for path in (grid / "grid" / "report").iterdir()}
    monkeypatch.setattr("src.report.page._content", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(read_sweep(grid, "grid"))
    assert {path.name for path in (grid / "grid" / "report").iterdir()} == files


def test_the_ledger_counts_every_run(grid: Path, page: Page) -> None:
    with (grid / "grid" / "report" / "ledger.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(GRID) * 20
    combined, sequential = page.rows("ledger")
    assert combined[:5] == ["epochs", "combined", str(len(GRID) * 10), "16", "120"]
    assert sequential[1] == "sequential"
    assert sequential[7:] == ["50 %", "1.25", "1.00"]
    assert sum(int(row["updates"]) for row in rows if row["regime"] == "sequential") == 20 * len(GRID) * 10


def test_evicted_weights_are_reported(page: Page) -> None:
    assert page.text.count("are no longer in the stage store") == 2
