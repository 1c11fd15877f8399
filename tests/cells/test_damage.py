"""A damaged result counts as missing: its run is trained again, to the same bits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.comparison.pairing import load_records
from src.config import Config
from src.sweep import laboratory
from src.sweep.grid.cells import Cell
from src.sweep.grid.plan import plan_sweep
from tests.training.cells import tiny

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "garbage": lambda content: bytes(255 - byte for byte in content),
    "a list": lambda _: b"[]",
    "an empty object": lambda _: b"{}",
    "a flipped digit": lambda content: re.sub(
        rb'("test/union/loss": \d+\.\d*)(\d)', lambda m: m[1] + (b"1" if m[2] != b"1" else b"2"), content
    ),
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny(f"multirun={tmp_path}", "regimes=[sequential]", "seeds=2")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_reported_and_trained_again(
    damage: str, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell(resolve(config))
    cell = resolve(config)
    path = cell.run_folder(config.regimes[0], 1) / "result.json"
    before = path.read_bytes()
    path.write_bytes(DAMAGES[damage](before))
    assert path.read_bytes() != before
    assert [seed for _, seed in cell.missing_runs()] == [1]
    assert len(load_records(cell.sweep_dir).damaged) == 1
    plan = plan_sweep([Cell(config)], laboratory)
    assert sum(plan.n_missing.values()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"damaged: {path}: counts as missing; the run is trained again"
    run_cell(cell)
    assert cell.missing_runs() == []
    assert json.loads(path.read_bytes())["result"] == json.loads(before)["result"]


def test_an_old_result_without_a_checksum_is_accepted(config: Config) -> None:
    run_cell(resolve(config))
    cell = resolve(config)
    for path in cell.folder.glob("*/result.json"):
        body = json.loads(path.read_text())
        assert body.pop("checksum")
        path.write_text(json.dumps(body))
    assert cell.missing_runs() == []
    assert len(load_records(cell.sweep_dir).runs) == 2
