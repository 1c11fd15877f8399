"""What the laboratory computes is what it computed before: hashes everywhere, results to the last bit on one kind of machine.

golden.json holds, for cells that use every part of the laboratory (tests/golden/cells.py), the hashes of cells and runs, digests
of the `result` part of result.json and of the curves, and two metrics of each run. The project runs as a command and is
read from disk, so modules may move. Hashes must be equal on every machine. Bits are guaranteed per kind of machine, the
fingerprint in a run's provenance: on another kind the digests' test is skipped, with both fingerprints, and the metrics alone
are compared, to a tolerance. After a change that is meant to change results: python -m tests.golden.regenerate
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tests.golden.laboratory import Cells, Laboratory, Run

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
EXPECTED: Cells = {
    cell: {folder: Run(**run) for folder, run in runs.items()} for cell, runs in GOLDEN.pop("cells").items()
}

TOLERANCE = 0.005
"""Of the mean absolute difference over runs. Measured: without AVX512, and without any vector instructions, nine digests of ten
differ, accuracy by 0.0001 and loss by 0.0004; runs of another seed differ by tens of times the tolerance."""


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return Laboratory(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def trained(laboratory: Laboratory) -> Cells:
    """Train all golden cells."""
    laboratory.train()
    return laboratory.cells()


def addresses(cells: Cells) -> dict[str, str]:
    """The hash of every run, by names of cell and run and the cell's hash."""
    names = GOLDEN["names"]
    return {
        f"{names.get(cell, 'corners')} {cell} {folder}": run.run
        for cell, runs in sorted(cells.items())
        for folder, run in runs.items()
    }


def differing(trained: Cells, of: Callable[[Run], str]) -> list[str]:
    """The runs of which `of` gives something else than expected."""
    return [
        f"{GOLDEN['names'].get(cell, 'corners')} {folder}"
        for cell, runs in EXPECTED.items()
        for folder, run in runs.items()
        if folder not in trained.get(cell, {}) or of(trained[cell][folder]) != of(run)
    ]


def deviation(trained: Cells, of: Callable[[Run], float | None]) -> float:
    """The mean absolute difference of a metric over the runs that have it."""
    pairs = [(of(trained[cell][folder]), of(run)) for cell, runs in EXPECTED.items() for folder, run in runs.items()]
    assert all((now is None) == (before is None) for now, before in pairs), "defined in the same runs"
    return fmean(abs(now - before) for now, before in pairs if now is not None and before is not None)


def test_the_cells_of_the_default_grid_have_the_hashes_they_had(laboratory: Laboratory) -> None:
    assert laboratory.default_cells() == GOLDEN["default_grid"]


def test_cells_and_runs_have_the_hashes_they_had(trained: Cells) -> None:
    assert addresses(trained) == addresses(EXPECTED)


def test_results_curves_and_table_are_equal_to_the_last_bit(laboratory: Laboratory, trained: Cells) -> None:
    here = laboratory.fingerprint()
    if here != GOLDEN["fingerprint"]:
        pytest.skip(f"bits are guaranteed on one kind of machine: {GOLDEN['fingerprint']}; this is {here}")
    assert differing(trained, lambda run: run.result) == []
    assert differing(trained, lambda run: run.history) == []
    assert laboratory.table() == GOLDEN["table"]


def test_metrics_are_close_on_any_machine(trained: Cells) -> None:
    assert deviation(trained, lambda run: run.accuracy) < TOLERANCE
    assert deviation(trained, lambda run: run.loss) < TOLERANCE
