"""Probes give the known values of special cases."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.claims.cell import CellRuns, MissingEvidence
from src.claims.claims import load_claim
from src.claims.probes.last_stage import gap, path
from src.claims.probes.seeds import variance_components
from src.claims.probes.surface import curvature, noise, noise_slopes, overwriting
from src.comparison.pairing import load_records
from src.config import compose
from src.training.store.store import Store


def test_variance_of_draws_falls_as_one_over_n() -> None:
    rng = np.random.default_rng(0)
    slopes = [noise_slopes(rng.exponential(size=300), rng.normal(size=(300, 5)), rng) for _ in range(10)]
    for name in ("loss_slope", "gradient_slope"):
        found = np.array([one[name] for one in slopes])
        assert abs(found.mean() + 1) < 4 * found.std(ddof=1) / math.sqrt(10)
        assert found.std(ddof=1) < 0.1


def test_variance_components_match_the_planted_ones() -> None:
    rng = np.random.default_rng(0)
    n, k = 400, 4
    draw, init = rng.normal(size=(n, 1, 1)), 2 * rng.normal(size=(n, k, 1))
    order, rest = 0.5 * rng.normal(size=(n, 1, k)), rng.normal(size=(n, k, k))
    parts = variance_components(draw + init + order + rest)
    assert parts == pytest.approx({"data": 1, "init": 4, "order": 0.25, "residual": 1}, rel=0.25)


def trained(overrides: list[str], folder: Path) -> CellRuns:
    """The runs of one cell, trained in `folder`."""
    cell = resolve(compose([*overrides, "trainer=cpu", "tracking=off", "sweep=claims", f"multirun={folder}"]))
    run_cell(cell)
    return CellRuns.of(cell, load_records(cell.sweep_dir).runs, Store(folder / ".stages"))


def test_the_path_reaches_the_combined_optimum_where_theory_says_so(tmp_path: Path) -> None:
    study = load_claim("combined-optimum-off-path").studies[1]
    read = path(trained([*study.arguments, "regimes=[sequential,combined]", "seeds=2"], tmp_path)).values
    assert set(read) == {("sequential", 0), ("sequential", 1)}
    for values in read.values():
        assert values["distance"] < 1e-6
        assert values["straightness"] == pytest.approx(1, abs=1e-6)
        assert values["order_distance"] < 1e-6  # a full batch has one order


def test_curvature_is_that_of_the_quadratic_loss(tmp_path: Path) -> None:
    """Mean squared error of a linear network without bias: the Hessian is 2 X'X / n."""
    overrides = ["study=linear_lab", "data.dim=4", "split.sizes=[30,10]", "regimes=[d1_only]", "seeds=1"]
    evidence = trained(overrides, tmp_path)
    x = evidence.factory.build(0).train[0].inputs(torch.float64).flatten(1).numpy()
    eigenvalues = np.linalg.eigvalsh(2 * x.T @ x / len(x))
    found = curvature(evidence).values["d1_only", 0]
    assert found["sharpness"] == pytest.approx(eigenvalues[-1], rel=1e-3)
    assert eigenvalues[0] < found["random"] < eigenvalues[-1]


def test_a_penalty_on_important_weights_shows_in_what_is_overwritten(tmp_path: Path) -> None:
    overrides = ["split.size=60", "split.shift.kind=permute", "split.shift.amount=1", "stopping.epochs=10", "seeds=2"]
    regimes = "regimes=[sequential,{ewc:{strength:1000}},combined]"
    found = overwriting(trained([*overrides, "optimizer.lr=0.02", regimes], tmp_path)).values
    moved = {label: np.mean([found[label, seed]["important_moved"] for seed in (0, 1)]) for label, _ in found}
    assert set(moved) == {"sequential", "ewc(strength=1000.0)"}  # combined has one stage
    assert moved["ewc(strength=1000.0)"] < 1 < moved["sequential"]


def test_a_larger_sample_has_the_surface_of_its_distribution(tmp_path: Path) -> None:
    overrides = ["regimes=[d1_only]", "seeds=2", "stopping.epochs=20", "optimizer.lr=0.02"]
    errors = []
    for size in (40, 800):
        read = noise(trained([*overrides, f"split.size={size}"], tmp_path / str(size))).values
        errors.append([read["d1_only", seed]["surface_error"] for seed in (0, 1)])
    assert max(errors[1]) < min(errors[0])


def test_the_stability_gap_uses_every_update_and_the_lowest_point_of_the_other_seeds(tmp_path: Path) -> None:
    """With exchanged labels in Dataset 2: the drop minus the regained accuracy equals the loss over stage 2 on the run's own
    curve; a single seed raises an error."""
    overrides = ["split.size=60", "split.shift.kind=relabel", "split.shift.amount=1", "stopping.epochs=20"]
    evidence = trained([*overrides, "optimizer.batch_size=30", "regimes=[sequential,combined]", "seeds=2"], tmp_path)
    read = gap(evidence)
    assert set(read.values) == {("sequential", 0), ("sequential", 1)}
    for seed in (0, 1):
        run, one = evidence.runs["sequential", seed], read.values["sequential", seed]
        assert one["drop"] > 0.1
        lost = one["drop"] - one["regained"]  # over the whole stage, independent of the lowest point
        history = run.path.with_name("history.parquet")
        assert lost == pytest.approx(at_ends(history), abs=1e-12)
    assert "after 0, 1, 2, 5, 10, 20 updates" in read.notes[0]
    del evidence.runs["sequential", 1]  # type: ignore[attr-defined]
    with pytest.raises(MissingEvidence, match="only one seed"):
        gap(evidence)


def at_ends(history: Path) -> float:
    """Validation accuracy on Dataset 1 at the end of stage 1 less that at the end of stage 2, from the run's curves."""
    import pyarrow.parquet as pq

    rows = pq.read_table(history).to_pylist()
    curve = {
        stage: [r["value"] for r in rows if (r["name"], r["stage"]) == ("val/d1/accuracy", stage)] for stage in (0, 1)
    }
    return float(curve[0][-1] - curve[1][-1])
