"""Missing cells are ordered by length, whatever its unit."""

from __future__ import annotations

import pytest

from src.config import compose
from src.sweep.grid.cells import Cell
from src.sweep.grid.plan import SweepPlan

LENGTHS = {
    "stopping.epochs": ("stopping=epochs",),
    "stopping.max_epochs": ("stopping=early_stopping",),
    "stopping.updates": ("stopping=budget", "stopping.match=updates"),
    "stopping.samples": ("stopping=budget", "stopping.match=samples"),
    "stopping.updates_per_part": ("stopping=budget", "stopping.match=updates"),
}


@pytest.mark.parametrize("key", LENGTHS)
def test_missing_cells_come_short_before_long(key: str) -> None:
    cells = {}
    for amount in (200, 9, 50):
        cells[str(amount)] = Cell(compose([*LENGTHS[key], f"{key}={amount}"]))
    assert list(SweepPlan(cells, {"200": 1, "9": 2, "50": 1}).missing) == ["9", "50", "200"]
    assert list(SweepPlan(cells, {"200": 1, "9": 0, "50": 1}).missing) == ["50", "200"]
