"""One kill of everything in ``python -m benchmarks.reliability kills`` with the real engine and MLflow: `make campaign` has the others."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.reliability.kills import Campaign

WORDS = ["split.size=60", "stopping.epochs=1,2", "seeds=2", "n_workers=1", "trainer=cpu"]


def test_a_killed_sweep_equals_an_uninterrupted_one(empty_multirun: Path, tmp_path: Path) -> None:
    for name in ("untouched", *(f"sweep{number}" for number in range(3))):
        shutil.copytree(empty_multirun, tmp_path / name)
    campaign = Campaign(tmp_path, WORDS, n_kills=1, seed=9)
    campaign.run()
    assert campaign.problems == []
    assert [kill.kind for kill in campaign.kills] == ["everything"]
