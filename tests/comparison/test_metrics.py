"""A search reads validation metrics at the final weights, and never a test set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from src.comparison.metrics import score_of
from src.config import Objective
from tests.tracking.folders import run_folder

DIFFERENCE = Objective(of=("sequential", "combined"), metric="val/union/accuracy", direction="minimize_absolute")


def cell(sweep_dir: Path, **values: tuple[float, ...]) -> None:
    """A cell whose runs end with these validation accuracies and have other test accuracies."""
    for regime, accuracies in values.items():
        for seed, accuracy in enumerate(accuracies):
            path = run_folder(sweep_dir, cell="c", regime=regime, seed=seed, accuracy=accuracy) / "result.json"
            body = json.loads(path.read_text())
            body["result"]["metrics"] = dict.fromkeys(body["result"]["metrics"], 0.123)
            path.write_text(json.dumps(body))


def test_score_is_the_mean_of_the_last_validation_values(tmp_path: Path) -> None:
    cell(tmp_path, sequential=(0.5, 0.7), combined=(0.9, 0.8))
    found = score_of(tmp_path, "c", (0, 1), DIFFERENCE)
    assert found.means == pytest.approx({"sequential": 0.6, "combined": 0.85})
    assert found.means is not None
    assert DIFFERENCE.value(found.means) == pytest.approx(0.25)


def test_a_missing_result_gives_no_score_and_a_diverged_run_never_will(tmp_path: Path) -> None:
    cell(tmp_path, sequential=(0.5, 0.7), combined=(0.9,))
    missing = score_of(tmp_path, "c", (0, 1), DIFFERENCE)
    assert (missing.means, missing.diverged) == (None, False)
    assert "combined-1" in missing.problem
    run_folder(tmp_path, cell="c", regime="combined", seed=1, status="diverged")
    lost = score_of(tmp_path, "c", (0, 1), DIFFERENCE)
    assert (lost.means, lost.diverged) == (None, True)
    assert "combined-1 diverged" in lost.problem
