"""The tables of a stream give its means, paired differences and R; undefined values stay empty."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.comparison.pairing import RunRecord, load_records
from src.comparison.transfer import METRICS, markdown, mean_matrix, transfer_tables


def stream_run(sweep: Path, run_writer: Callable[..., Path], regime: str, seed: int, matrix: list[list[Any]]) -> None:
    """A run on three data sets with the accuracy matrix `matrix`."""
    path = run_writer(sweep, "c0", regime, seed, 0.5)
    body = json.loads(path.read_text())
    last = matrix[-1]
    staged = len(matrix) > 1
    body["result"]["accuracy_matrix"] = matrix
    body["result"]["metrics"] |= {
        "average_accuracy": sum(last) / 3,
        "learning_accuracy": 0.9,
        "backward_transfer": -0.2 - 0.01 * seed if staged else None,
        "forgetting": 0.2 if staged else None,
        "forward_transfer": 0.05 if staged else None,
    }
    path.write_text(json.dumps(body))


@pytest.fixture
def records(sweep: Path, run_writer: Callable[..., Path]) -> Any:
    for seed in range(6):
        step = 0.01 * seed
        rows = [[0.9, 0.1, None], [0.5, 0.8, 0.2], [0.3 + step, 0.6, 0.9]]
        stream_run(sweep, run_writer, "sequential", seed, rows)
        stream_run(sweep, run_writer, "combined", seed, [[0.9, 0.9, 0.9]])
    return load_records(sweep)


def test_metrics_of_every_regime_and_their_paired_differences(records: Any) -> None:
    metrics, *matrices = transfer_tables(records, ["sequential", "combined"])
    assert metrics.heads == ("regime", *(name.replace("_", " ") for name in METRICS), "n")
    by_regime = {row[0]: row[1:] for row in metrics.rows}
    spread = np.std(np.arange(6) / 3, ddof=1)
    assert by_regime["sequential"][0] == f"{100 * (1.8 + 0.025) / 3:.1f} ± {spread:.1f}"
    assert by_regime["sequential"][2:5] == ("-22.5 ± 1.9", "+20.0 ± 0.0", "+5.0 ± 0.0")
    assert by_regime["combined"] == ("90.0 ± 0.0", "90.0 ± 0.0", "-", "-", "-", "6")
    difference = by_regime["sequential - combined"]
    assert difference[0].startswith("-29.2 [-30.0, -28.3")
    assert difference[1:] == ("0.0 [0.0, 0.0]", "-", "-", "-", "6")
    assert [table.title for table in matrices] == ["R of sequential: accuracy, %", "R of combined: accuracy, %"]
    assert matrices[0].rows[0] == ("after stage 1", "90.0", "10.0", "-")
    assert matrices[0].rows[2] == ("after stage 3", "32.5", "60.0", "90.0")
    assert "| after stage 1 | 90.0 | 90.0 | 90.0 |" in markdown(matrices)


def test_the_mean_matrix_excludes_diverged_runs(records: Any) -> None:
    runs: list[RunRecord] = [run for run in records.runs if run.regime == "sequential"]
    matrix = mean_matrix(runs)
    assert matrix is not None
    np.testing.assert_allclose(matrix[2], [0.325, 0.6, 0.9])
    assert np.isnan(matrix[0, 2])
    assert mean_matrix([]) is None


def test_two_data_sets_have_no_transfer_table(cell_of: Callable[..., Any]) -> None:
    assert transfer_tables(cell_of({"sequential": [0.9], "combined": [0.8]}), ["sequential", "combined"]) == []
