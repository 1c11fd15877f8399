"""The benchmarks: the sample of the plain baseline, the arithmetic of the table, the GPU's code on a CPU."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import clocked, grid, plain, scaling
from benchmarks.harness import Grid, spread
from src.cells.resolve import resolve
from src.config import compose
from src.sweep.summary import report


def test_the_default_grid_has_the_400_runs_of_the_benchmark() -> None:
    assert Grid().n_runs == 400
    assert "split.ratio=0.1,0.3,1,3,10" in Grid().overrides()


def test_the_sample_of_the_plain_baseline_has_equally_many_runs_of_every_length_and_regime() -> None:
    sample = plain.strata(Grid(), 3)
    assert sorted(sample) == sorted(f"{r}/{e}" for r in Grid().regimes for e in Grid().epochs)
    assert {len(set(places)) for places in sample.values()} == {3}
    ratios = Counter(ratio for ratio, _, _ in sample["replay/20"])
    assert max(ratios.values()) == 1  # spread over the grid, not only its first corner


def test_the_plain_baseline_is_scaled_by_stratum_and_starts_once() -> None:
    time = grid.PlainTime(start_up=10, per_run={"a/5": 0.5, "a/20": 1.5}, n_sampled=2)
    assert time.whole(Grid()) == 10 + 200 * 0.5 + 200 * 1.5


def test_the_plain_baseline_has_the_stages_of_the_regimes() -> None:
    stream = resolve(compose(["split.size=60", "split.ratio=2"])).streams.build(0)
    sizes = {name: [len(data) for data in plain.stages_of(name, stream)] for name in Grid().regimes}
    assert sizes == {"sequential": [20, 40], "combined": [60], "replay": [20, 40], "freeze": [20, 40]}


def test_the_clocked_engine_accounts_for_the_whole_of_its_cells(tmp_path: Path) -> None:
    config = compose(
        ["trainer=cpu", "tracking=off", "split.size=60", "seeds=2", "stopping.epochs=2", f"multirun={tmp_path}"]
    )
    cells = [clocked.resolve(config)]
    with clocked.session(cells) as session:
        outcome = clocked.run_cell(cells[0])
        session.finish(cells, report)
    assert len(outcome.folders) == 4
    clock = clocked.read(tmp_path / "digits-mlp")
    (line,) = [
        line
        for path in (tmp_path / "digits-mlp" / "clock").glob("*.jsonl")
        for line in map(json.loads, path.read_text().splitlines())
        if "cell" in line
    ]
    assert clock.train + clock.score + clock.data + clock.results == pytest.approx(
        line["end"] - line["start"], abs=0.05
    )
    assert min(clock.train, clock.score, clock.data, clock.results, clock.report) > 0
    assert clock.claiming == pytest.approx(0)
    assert clock.peak_mib > 100
    assert grid.reuse(tmp_path / "digits-mlp") == (4 * 120, 4 * 120)


def test_the_benchmark_of_shared_stages_times_the_stages_of_the_additional_regimes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[str]] = []
    monkeypatch.setattr(scaling, "show", lambda *output: shown.extend(output[2]))
    scaling.regimes({**scaling.FLAGS, "regimes": "1,2", "seeds": "2", "epochs": "2"}, tmp_path)
    assert [row[0] for row in shown] == ["1", "2"]
    alone, both = (float(row[2].split()[0]) for row in shown)
    assert alone == 0, "all stages are those of the first regime"
    assert both > 0


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2.0 [1.0, 3.0]"
    assert spread([1234.0], 0) == "1,234"
