"""The performance switches (docs/PERFORMANCE.md) change no bit of a result, and therefore no address."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.config import cell_hash, compose

CELL = ["trainer=cpu", "tracking=off", "split.size=60", "seeds=2", "stopping.epochs=2"]
REGIMES = "regimes=[sequential,combined,replay,freeze]"


def results(multirun: Path, *overrides: str) -> dict[str, dict[str, Any]]:
    """Results of the cell's runs by folder name."""
    outcome = run_cell(resolve(compose([*CELL, REGIMES, f"multirun={multirun}", *overrides])))
    assert not outcome.failures
    return {
        f"{folder.parent.name}/{folder.name}": json.loads((folder / "result.json").read_text())
        for folder in outcome.folders
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return results(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    "switched", [["trainer.reuse=false"], ["trainer.replicas=1"], ["trainer.resident_mib=0"], ["n_workers=2"]]
)
def test_a_switch_changes_no_bit_of_any_result(
    switched: list[str], plain: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    other = results(tmp_path, *switched)
    assert {name: body["result"] for name, body in other.items()} == {n: body["result"] for n, body in plain.items()}


def test_without_reuse_every_run_trains_all_of_its_own_stages(plain: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """This holds even if the store has the stages: the second command trains all of them again."""
    first = results(tmp_path, "trainer.reuse=false")
    for name in first:
        (tmp_path / "digits-mlp" / "cells" / name / "result.json").unlink()
    for bodies in (first, results(tmp_path, "trainer.reuse=false")):
        assert [body["provenance"]["reused_samples"] for body in bodies.values()] == [0] * len(bodies)
    assert any(body["provenance"]["reused_samples"] for body in plain.values())


@pytest.mark.parametrize(
    "switched",
    ["trainer.reuse=false", "trainer.replicas=7", "trainer.resident_mib=0", "n_workers=1"],
)
def test_no_switch_is_part_of_the_recipe(switched: str) -> None:
    assert cell_hash(compose([switched]), "data") == cell_hash(compose([]), "data")
