"""A stream of more than two data sets: MLflow gets R[i, j] as curves over updates; two data sets have none."""

from __future__ import annotations

import json
from pathlib import Path

from src.tracking.runs import record_of
from tests.tracking.folders import run_folder


def test_the_accuracy_matrix_is_a_curve_for_every_data_set(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "sweep")
    assert not [point for point in record_of(folder).points if point.name.startswith("R/")]
    body = json.loads((folder / "result.json").read_text())
    body["result"]["metrics"]["average_accuracy"] = 0.6
    body["result"]["accuracy_matrix"] = [[0.9, None], [0.4, 0.8]]
    (folder / "result.json").write_text(json.dumps(body))
    points = [point for point in record_of(folder).points if point.name.startswith("R/")]
    first, second = (stage["updates"] for stage in body["result"]["stages"])
    found = [(point.name, point.value, point.step) for point in points]
    assert found == [("R/d1", 0.9, first), ("R/d1", 0.4, first + second), ("R/d2", 0.8, first + second)]
    assert points[0].timestamp < points[1].timestamp
