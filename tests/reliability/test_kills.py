"""Three kills of ``python -m benchmarks.reliability kills`` with the real engine and MLflow."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.reliability.kills import Campaign

WORDS = ["split.size=60", "stopping.epochs=1,2", "seeds=2", "n_workers=1", "trainer=cpu"]


def test_a_sweep_killed_three_times_equals_an_uninterrupted_one(empty_multirun: Path, tmp_path: Path) -> None:
    for name in ("untouched", *(f"sweep{number}" for number in range(4))):
        shutil.copytree(empty_multirun, tmp_path / name)
    campaign = Campaign(tmp_path, WORDS, n_kills=3, seed=8)
    campaign.run()
    assert campaign.problems == []
    assert len(campaign.kills) == 3
