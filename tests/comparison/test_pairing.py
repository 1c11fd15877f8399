"""Only comparable runs are paired, and every exclusion is reported.

Properties: pairs share cell, seed and kind of device; a diverged run makes the cell inconclusive; a damaged record is
listed and not used; a result takes precedence over an older failure; the difference is a - b, and rounding has no sign.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from src.comparison.pairing import Records, load_records, pair

ACCURACY = "test/union/accuracy"


def test_pairs_by_seed_and_subtracts_b_from_a(cell_of: Callable[..., Records]) -> None:
    records = cell_of({"sequential": [0.5, 0.75], "combined": [0.75, 0.5]})
    pairs = pair(records.runs, "sequential", "combined", ACCURACY)
    assert (pairs.seeds, pairs.differences, pairs.problem, pairs.notes) == ((0, 1), (-0.25, 0.25), None, ())


def test_an_unpaired_seed_is_excluded_and_reported(cell_of: Callable[..., Records]) -> None:
    pairs = pair(cell_of({"a": [0.5, 0.5, 0.5], "b": [0.5]}).runs, "a", "b", ACCURACY)
    assert pairs.seeds == (0,)
    assert pairs.notes == ("seeds 1, 2 finished in one regime only",)


def test_cpu_and_cuda_are_never_paired(sweep: Path, run_writer: Callable[..., Path]) -> None:
    run_writer(sweep, "c0", "a", 0, 0.5, device="cpu")
    run_writer(sweep, "c0", "b", 0, 0.6, device="cuda")
    only = pair(load_records(sweep).runs, "a", "b", ACCURACY)
    assert (only.seeds, only.problem) == ((), "one regime ran on CPU, the other on CUDA")
    run_writer(sweep, "c0", "a", 1, 0.5, device="cuda")
    run_writer(sweep, "c0", "b", 1, 0.6, device="cuda")
    pairs = pair(load_records(sweep).runs, "a", "b", ACCURACY)
    assert (pairs.seeds, pairs.problem) == ((1,), None)
    assert pairs.notes == ("seed 0 not paired: one run on CPU, the other on CUDA",)


def test_a_diverged_run_is_a_problem_that_names_regime_and_seed(sweep: Path, run_writer: Callable[..., Path]) -> None:
    for seed in range(3):
        run_writer(sweep, "c0", "a", seed, 0.5)
        run_writer(sweep, "c0", "b", seed, None if seed == 1 else 0.6, status="diverged" if seed == 1 else "finished")
    pairs = pair(load_records(sweep).runs, "a", "b", ACCURACY)
    assert (pairs.seeds, pairs.collapsed, pairs.notes) == (
        (0, 2),
        (0, 1),
        ("b collapsed (seed 1): its loss is not finite",),
    )
    assert pairs.problem is not None
    assert pairs.problem.startswith("a collapsed in 0 of 3 runs, b in 1 of 3 (too few seeds to test); of 2 seeds")


def test_an_undefined_metric_is_a_problem_and_not_zero(cell_of: Callable[..., Records]) -> None:
    pairs = pair(cell_of({"a": [None, None], "b": [None, 0.5]}).runs, "a", "b", ACCURACY)
    assert (pairs.differences, pairs.problem) == ((), f"{ACCURACY} is undefined here")


def test_rounding_gives_no_difference_a_sign(cell_of: Callable[..., Records]) -> None:
    pairs = pair(cell_of({"a": [0.1 + 0.2, 0.5], "b": [0.3, 0.5 + 1e-9]}).runs, "a", "b", ACCURACY)
    assert pairs.differences[0] == 0.0
    assert pairs.differences[1] == pytest.approx(-1e-9)


def test_stages_that_did_not_converge_are_counted(cell_of: Callable[..., Records]) -> None:
    pairs = pair(cell_of({"a": [0.5, 0.6], "b": [0.5, 0.6]}, converged=False).runs, "a", "b", ACCURACY)
    assert pairs.notes == ("4 of 4 stages not converged",)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"schema": 2}',
        pytest.param("axes", id="no axes"),
        pytest.param("result", id="no result"),
        pytest.param("words", id="a metric that is a word"),
        pytest.param("elsewhere", id="another cell's record"),
        pytest.param("copy", id="a copy of another run"),
    ],
)
def test_damaged_records_are_reported_and_not_used(
    cell_of: Callable[..., Records], run_writer: Callable[..., Path], sweep: Path, content: str
) -> None:
    cell_of({"a": [0.5], "b": [0.5]})
    path = run_writer(sweep, "c0", "a", 1, 0.9)
    whole = json.loads(path.read_text())
    if content in ("axes", "result"):
        del whole[content]
        content = json.dumps(whole)
    elif content == "words":
        whole["result"]["metrics"][ACCURACY] = "high"
        content = json.dumps(whole)
    elif content == "elsewhere":
        content = json.dumps(whole | {"cell": "c1"})
    elif content == "copy":
        content = json.dumps(whole | {"seed": 0})
    path.write_text(content)
    records = load_records(sweep)
    assert [run.seed for run in records.runs if run.regime == "a"] == [0]
    assert [damaged.path for damaged in records.damaged] == [path]
    assert records.damaged[0].problem


def test_failures_are_listed_until_a_result_replaces_them(
    sweep: Path, run_writer: Callable[..., Path], failure_writer: Callable[..., Path]
) -> None:
    failure_writer(sweep, "c0", "b", 0, "RuntimeError: out of memory")
    (failed,) = load_records(sweep).failed
    assert (failed.cell, failed.regime, failed.seed, failed.error) == ("c0", "b", 0, "RuntimeError: out of memory")
    (sweep / "cells" / "c0" / "b-0" / "failed.json").unlink()
    (sweep / "cells" / "c0" / "b-0").rmdir()
    run_writer(sweep, "c0", "b", 0, 0.5)
    failure_writer(sweep, "c0", "b", 0, "RuntimeError: out of memory")
    records = load_records(sweep)
    assert (len(records.runs), len(records.failed)) == (1, 0)


def test_a_command_reads_its_own_cells_and_seeds(cell_of: Callable[..., Records], sweep: Path) -> None:
    cell_of({"a": [0.5, 0.6, 0.7]}, cell="c0")
    cell_of({"a": [0.5, 0.6, 0.7]}, cell="c1")
    records = load_records(sweep, cells=["c1"], seeds=[0, 2])
    assert [(run.cell, run.seed) for run in records.runs] == [("c1", 0), ("c1", 2)]
    assert load_records(sweep / "nowhere") == Records(runs=())
