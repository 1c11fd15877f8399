"""End-of-command summary: every swept setting is an axis, and a rerun without new results sends nothing to MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.comparison.families import declare
from src.comparison.pairing import Records
from src.comparison.verdicts import judge, judge_test_sets
from src.config import compose
from src.sweep.mlflow_columns import cell_means, cell_tags, comparison_of, sweep_metrics
from src.sweep.summary import attached, axes_of, judge_cells, read_records, report

TINY = ["split.size=40", "stopping.epochs=1", "seeds=2", "tracking=off"]


def test_settings_without_a_short_name_become_axes() -> None:
    coordinates = axes_of([compose(["optimizer.lr=0.1"]), compose(["optimizer.lr=0.01", "split.ratio=3"])])
    assert [own["optimizer.lr"] for own in coordinates] == [0.1, 0.01]
    assert [own["ratio"] for own in coordinates] == [1.0, 3.0]
    assert "split.ratio" not in coordinates[0], "the axis shows it"


def test_a_setting_that_its_axis_does_not_distinguish_becomes_an_axis() -> None:
    coordinates = axes_of([compose(["split.size=100"]), compose(["split.size=200"])])
    assert [own["split.size"] for own in coordinates] == [100, 200]


def test_list_values_are_shown_as_typed() -> None:
    coordinates = axes_of([compose(["arch.widths=[128]"]), compose(["arch.widths=[64,64]"])])
    assert [own["arch.widths"] for own in coordinates] == ["[128]", "[64,64]"]


def test_one_regime_alone_has_its_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = compose([*TINY, f"multirun={tmp_path}", "regimes=[d1_only]"])
    outcome = run_cell(resolve(config))
    found = [json.loads((folder / "result.json").read_text()) for folder in outcome.folders]
    values = [100 * body["result"]["metrics"]["test/union/accuracy"] for body in found]
    report(tmp_path / config.sweep, [resolve(config)], "the command")
    row = next(line for line in capsys.readouterr().out.splitlines() if "d1_only" in line)
    assert row.split() == ["d1_only", f"{sum(values) / 2:.1f}", f"{min(values):.1f}", f"{max(values):.1f}", "2"]


def test_a_rerun_without_new_results_delivers_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs = [compose([*TINY, f"multirun={tmp_path}", f"split.ratio={ratio}"]) for ratio in (1, 3)]
    for config in configs:
        run_cell(resolve(config))
    cells = [resolve(config) for config in configs]
    sweep = tmp_path / configs[0].sweep
    outbox = sweep / "outbox"

    def news() -> list[str]:
        sent = [json.loads(path.read_text())["folder"] for path in sorted(outbox.glob("*.json"))]
        for path in outbox.glob("*.json"):
            path.unlink()
        return sent

    assert len(news()) == 8, "the runs"
    report(sweep, cells, "the command")
    *of_cells, last = news()
    assert sorted(of_cells) == sorted(f"cells/{cell.hash}" for cell in cells)
    assert last == "."
    the_map = sweep / "map-sequential-combined.png"
    drawn = the_map.stat().st_mtime_ns
    report(sweep, cells, "the command")
    assert news() == []
    assert the_map.stat().st_mtime_ns == drawn, "the same map is not drawn again"
    the_map.unlink()
    report(sweep, cells, "the command")
    table = (sweep / "table.csv").read_text().splitlines()
    assert len(table) == 3
    assert "few seeds" in capsys.readouterr().out, "two seeds are too few, and the summary reports it"
    assert the_map.read_bytes().startswith(b"\x89PNG")


def test_a_rerun_keeps_every_plot_of_a_report_attached(tmp_path: Path) -> None:
    names = ["report/forgetting-sequential-imbalance=1.1.png", "report/report.html"]
    (tmp_path / "report").mkdir()
    for name in names:
        (tmp_path / name).touch()
    summary = {"artifacts": [*names, "report/missing.png", "report/..", "report/a/b", "table.csv", "../secret"]}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert attached(tmp_path) == names


def test_the_table_of_a_grown_grid_corrects_by_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["split.size=60", "stopping.epochs=10", "seeds=6", "tracking=off", f"multirun={tmp_path}"]
    cells = [resolve(compose([*tiny, f"split.ratio={ratio}"])) for ratio in (1, 3)]
    for number in (1, 2):
        run_cell(cells[number - 1])
        declare(cells[0].sweep_dir, [cell.hash for cell in cells[:number]], ["sequential", "combined"], None, range(6))
    report(cells[0].sweep_dir, cells[1:], "the command")
    assert "exploratory, added on" in capsys.readouterr().out
    verdicts = {
        verdict.cell: verdict
        for verdict in judge_cells(cells[0].sweep_dir, cells, read_records(cells[0].sweep_dir, cells))
    }
    assert [verdicts[cell.hash].exploratory != "" for cell in cells] == [False, True]
    assert {verdict.family for verdict in verdicts.values()} == {1}


def test_the_columns_of_mlflow_show_differences_means_and_counts(cell_of: Callable[..., Records]) -> None:
    records = cell_of({"a": [0.9, 0.8], "b": [0.8, 0.7], "c": [0.5, 0.6]}, cell="c0")
    records = cell_of({"a": [0.5, 0.4], "b": [0.8, 0.7], "c": [0.5, 0.6]}, cell="c1", axes={"ratio": 3.0})
    two = judge_test_sets(records, ["a", "b"])
    of_cell = [verdict for verdict in two if verdict.cell == "c0"]
    tags = cell_tags(of_cell)
    assert (tags["difference"], tags["mean/a"], tags["mean/b"]) == ("+10.0 points", "85.0 %", "75.0 %")
    assert tags["difference/d2"] == "+10.0 (too few seeds)"
    assert cell_means(of_cell)["mean/a/d2/accuracy"] == pytest.approx(0.85)
    shown = comparison_of(two)
    assert (shown.pairs, shown.metric, shown.axes) == ([("a", "b")], "union/accuracy", ["ratio"])
    assert {"d1", "d2"} <= set(shown.elsewhere), "the union alone never carries the page"
    assert shown.verdict == "too few seeds 2 of 2 cells"
    assert shown.largest == ("c1", "r=3 imb=1 e=5")
    assert sweep_metrics(two)["delta/a-b/union/accuracy"] == pytest.approx(-0.1)
    assert sweep_metrics(two)["wins/b"] == 0
    three = judge(records, ["a", "b", "c"], cells=["c0"])
    assert cell_tags(three)["difference/a-c"] == "+30.0 points"
    assert cell_tags(three)["winner/b-c"] == "too few seeds"
    assert comparison_of(three).verdict.startswith("a - b: too few seeds; a - c: ")
