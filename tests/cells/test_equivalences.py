"""Cells that mean the same have the same results, bit for bit.

No Dataset 2 is Dataset 1 alone; the union of identically distributed data is the same at every ratio; a saved configuration
gives the same run.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from src.cells.resolve import resolve
from src.config import parse
from tests.cells.running import cell, ran


@pytest.mark.parametrize("rule", ["epochs", "budget", "early_stopping", "convergence"])
@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_no_dataset_2_is_dataset_1_alone(arch: str, rule: str, tmp_path: Path) -> None:
    short = {"epochs": "epochs=2", "budget": "epochs=2"}.get(rule, "max_epochs=4")
    small = ("arch.widths=[4]", f"arch={arch}")
    stopping = (f"stopping={rule}", f"stopping.{short}")
    config = cell(
        tmp_path,
        "seeds=2",
        "regimes=[sequential,combined,d1_only]",
        "split.size=null",
        "split.sizes=[40,0]",
        *small,
        *stopping,
    )
    found = ran(config)
    for seed in (0, 1):
        alone = found[f"d1_only-{seed}"]
        assert found[f"sequential-{seed}"] == found[f"combined-{seed}"] == alone
        assert [alone["metrics"][f"test/d2/{kind}"] for kind in ("accuracy", "loss", "balanced_accuracy", "ece")] == [
            None
        ] * 4
        assert alone["metrics"]["test/d1/loss"] == pytest.approx(alone["metrics"]["test/union/loss"])
        assert alone["metrics"]["forgetting"] is None
    assert found["d1_only-0"]["weights"] != found["d1_only-1"]["weights"]


def test_the_iid_union_is_trained_once_for_all_ratios(tmp_path: Path, fits: list[int]) -> None:
    first = ran(cell(tmp_path, "regimes=[combined]", "split.ratio=0.25"))
    assert sum(fits) == 3
    second = ran(cell(tmp_path, "regimes=[combined]", "split.ratio=4"))
    assert sum(fits) == 3
    for name, result in first.items():
        assert second[name]["weights"] == result["weights"]
        assert second[name]["cost"] == result["cost"], "the ledger charges the full cost"


def test_same_seed_twice(tmp_path: Path) -> None:
    a, b = (ran(cell(tmp_path / name, "arch=cnn", "arch.widths=[4]")) for name in "ab")
    assert a == b
    assert len({result["weights"] for result in a.values()}) == 6


def test_a_written_configuration_makes_the_same_run(tmp_path: Path) -> None:
    config = cell(tmp_path, "seeds=[3]", "regimes=[{replay: {share: 0.3}}]", "split.ratio=0.5", "optimizer=adam")
    first = ran(config)
    written = yaml.safe_load((resolve(config).folder / "replay(share=0.3)-3" / "config.yaml").read_text())
    for single_run in (True, False):
        again = parse({**written, "multirun": str(tmp_path)}, single_run=single_run)
        assert resolve(again).folder == resolve(config).folder
        assert resolve(again).missing_runs() == []
        elsewhere = parse({**written, "multirun": str(tmp_path / f"{single_run}")}, single_run=single_run)
        assert ran(elsewhere) == first
