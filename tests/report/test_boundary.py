"""The phase boundary in the report: cells of the linear lab and the exact sign; other sweeps have no such plot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.comparison.pairing import load_records
from src.config import compose
from src.oracles.phase_diagram import METRIC, PhaseSetting, point_of, verdict
from src.report.boundary import boundary_plot

SETTING = PhaseSetting(dim=20, n1=100, noise=1.0)
LAB = ("study=linear_lab", "data.noise=1")


def test_a_certain_sign_agrees_with_theory_or_is_counted_against_it() -> None:
    exact = SETTING.difference(4, 4.0)
    assert exact < 0 < SETTING.difference(4, 0.25)
    near = point_of(SETTING, 4, 4.0, np.array([exact - 0.01, exact, exact + 0.01]))
    against = point_of(SETTING, 4, 4.0, np.array([1.0, 1.01, 1.02]))
    open_ = point_of(SETTING, 4, 4.0, np.array([-1.0, 1.0, 0.5]))
    outside = point_of(SETTING, 20, 4.0, np.array([1.0, 1.01, 1.02]))
    assert (near.is_certain, near.agrees) == (True, True)
    assert (against.is_certain, against.agrees) == (True, False)
    assert (open_.is_certain, open_.agrees) == (False, True)
    assert np.isnan(outside.exact)
    assert not outside.is_certain  # the risk is infinite at n2 = d: theory has no sign there
    assert verdict([near, against, open_]) == "3 cells, 2 certain (3 standard errors), 1 of them against the exact sign"


@pytest.fixture
def lab_sweep(sweep: Path, run_writer: Callable[..., Path]) -> Any:
    """Four cells with theory's differences and a little spread."""
    configs = {}
    for n2 in (4, 60):
        for shift in (1.0, 4.0):
            cell = f"n{n2}s{shift:g}"
            configs[cell] = compose([*LAB, f"split.sizes=[100,{n2}]", f"data.target_shift={shift**0.5}"])
            for regime, value in (("sequential", SETTING.difference(n2, shift)), ("combined", 0.0)):
                for seed in range(4):
                    path = run_writer(sweep, cell, regime, seed, None)
                    body = json.loads(path.read_text())
                    body["result"]["metrics"][METRIC] = 1 + value + 0.001 * seed * (regime == "sequential")
                    path.write_text(json.dumps(body))
    return configs, load_records(sweep).runs


def test_the_plot_of_the_lab_counts_the_cells_that_agree(lab_sweep: Any, tmp_path: Path) -> None:
    configs, runs = lab_sweep
    found = boundary_plot(configs, runs, tmp_path)
    assert found is not None
    assert "4 cells, 4 certain (3 standard errors), all of them with the exact sign" in found.alt
    assert (tmp_path / "boundary.png").stat().st_size > 10_000


def test_other_grids_have_no_boundary_plot(lab_sweep: Any, tmp_path: Path) -> None:
    configs, runs = lab_sweep
    one_size = {cell: config for cell, config in configs.items() if cell.startswith("n4")}
    assert boundary_plot(one_size, runs, tmp_path) is None
    assert boundary_plot({cell: compose() for cell in configs}, runs, tmp_path) is None
    other = compose([*LAB, "split.sizes=[90,60]", "data.target_shift=2"])
    assert boundary_plot({**configs, "n60s4": other}, runs, tmp_path) is None
