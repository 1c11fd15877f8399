"""history.parquet holds the curves as typed columns, and writing it loads no library that it does not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src.training.run_files import write_run

CURVES = {
    "step": [1, 2**40, 3],
    "stage": [0, 0, 1],
    "name": ["train/loss", "val/größe/loss", ""],
    "value": [0.5, -1e300, 2],
}
EMPTY: dict[str, list[object]] = {"step": [], "stage": [], "name": [], "value": []}
TYPES = {"step": pa.int64(), "stage": pa.int32(), "name": pa.string(), "value": pa.float64()}


@pytest.mark.parametrize("curves", [CURVES, EMPTY])
def test_the_columns_keep_their_names_types_and_values(curves: dict[str, list[object]], tmp_path: Path) -> None:
    write_run(tmp_path, {"provenance": {}}, curves, "seed: 0\n")
    table = pq.read_table(tmp_path / "history.parquet")
    assert table.schema.equals(pa.schema(TYPES))
    assert table.to_pydict() == curves
    expected = pa.table({name: pa.array(curves[name], type=kind) for name, kind in TYPES.items()})
    pq.write_table(expected, tmp_path / "expected.parquet")
    assert (tmp_path / "history.parquet").read_bytes() == (tmp_path / "expected.parquet").read_bytes()


def test_a_worker_writes_runs_without_pandas(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from src.training.run_files import write_run; "
        f"write_run(pathlib.Path(sys.argv[1]), {{'provenance': {{}}}}, {CURVES!r}, 'seed: 0'); print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
