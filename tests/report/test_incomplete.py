"""The report of a sweep that has no results, few, or damaged ones.

Properties: it reports empty sweeps and failed, diverged, missing and unreadable runs, and shows all others; regimes of an earlier
command stay.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from src.errors import ConfigError
from src.report.command import read_sweep
from src.sweep.folder import SweepFolder
from tests.report.report_page import report
from tests.report.report_sweeps import config, write_cell, write_failed, write_grid


def test_a_sweep_without_results(tmp_path: Path) -> None:
    cell = config("empty", seeds=2)
    write_cell(tmp_path, cell, 0.0, skip=lambda *_: True)
    page = report(tmp_path, "empty")
    assert "nothing to report yet" in page.text
    assert not page.all("img")
    assert "missing 4" in page.text


def test_a_sweep_that_is_not_there_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    write_cell(tmp_path, config("mine", seeds=1), 0.0)
    with pytest.raises(ConfigError, match=r"sweep=yours: .*sweeps here: mine"):
        read_sweep(tmp_path, "yours")


def test_one_regime_alone_is_not_compared(tmp_path: Path) -> None:
    write_cell(tmp_path, config("half"), 0.0, skip=lambda regime, _: regime == "combined")
    page = report(tmp_path, "half")
    assert "Nothing can be compared yet" in page.text
    assert "cells" not in {a.get("id") for _, a in page.tags}


def test_one_cell_is_a_report(tmp_path: Path) -> None:
    write_cell(tmp_path, config("one"), -0.1)
    page = report(tmp_path, "one")
    assert "Combined wins on union by" in page.text
    assert [row[8] for row in page.rows("cells")] == ["combined (barring collapses)"]
    assert "barring collapses: none of 10 runs of combined collapsed" in page.text, "below the table"


def test_failed_diverged_missing_and_damaged_runs_are_listed(tmp_path: Path) -> None:
    cell = config("trouble")
    name = write_cell(tmp_path, cell, 0.05, skip=lambda regime, seed: regime == "combined" and seed in (2, 3, 5))
    write_failed(tmp_path, cell, name, "combined", 3, "RuntimeError: <out of memory>")
    runs = tmp_path / "trouble" / "cells" / name
    diverged = json.loads((runs / "combined-4" / "result.json").read_text())
    (runs / "combined-4" / "result.json").write_text(
        json.dumps({**diverged, "status": "diverged", "result": {**diverged["result"], "metrics": {}}})
    )
    (runs / "sequential-6" / "result.json").write_text("{")
    whole = write_cell(tmp_path, config("trouble", "split.ratio=2"), 0.05, with_history=False)
    page = report(tmp_path, "trouble")
    assert "RuntimeError: <out of memory>" in page.text
    assert f"{name[:8]} combined, seed 4: its loss is not finite" in page.text
    assert f"{name[:8]} combined: seeds 2, 5" in page.text
    assert "sequential-6/result.json" in page.text
    assert "The curves of this cell are not on disk" in page.text
    winners = {(row[3], row[10]) for row in page.rows("cells")}
    assert winners == {("0 / 1", "inconclusive"), ("0 / 0", "sequential (barring collapses)")}
    assert whole[:8] not in page.text[page.text.index("Runs without a result") :]


def test_a_cell_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    first, second = write_grid(tmp_path, "old", ["split.ratio=1", "split.ratio=2"])
    (tmp_path / "old" / "cells" / first / "cell.yaml").write_text("data: {name: gone}")
    page = report(tmp_path, "old")
    assert f"{first}/cell.yaml" in page.text
    assert len(page.rows("cells")) == 2
    assert second


def test_regimes_of_an_earlier_command_stay_on_the_page(tmp_path: Path) -> None:
    write_cell(tmp_path, config("grown", "regimes=[sequential,combined,d2_only]"), 0.05)
    folder = SweepFolder(tmp_path, "grown")
    (cell,) = (path.name for path in (tmp_path / "grown" / "cells").iterdir())
    folder.write_cell(cell, config("grown"))
    page = report(tmp_path, "grown")
    pairs = {("sequential", "combined"), ("sequential", "d2_only"), ("combined", "d2_only")}
    assert {(row[0], row[2]) for row in page.rows("cells")} == pairs
