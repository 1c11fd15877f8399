"""How far a cell has come is heard at the points that all of its runs have passed, and is what their curves say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest

from src.cells.run import cell_dir, run_cell
from src.config import Config
from src.training.control import ProgressReport
from src.training.devices import place_of
from src.training.execute import execute
from src.training.plan import Plan
from src.training.progress import report_progress
from src.training.store.store import Store
from tests.training.cells import planned, tiny, with_replicas
from tests.training.test_groups import poisoned

CELL = ("regimes=[sequential]", "arch.widths=[5]", "stopping.epochs=4")


class Heard(list[list[ProgressReport]]):
    """All that was heard, in order."""

    def __call__(self, progress_reports: Sequence[ProgressReport]) -> None:
        self.append(list(progress_reports))


def heard(config: Config, root: Path, plan: Plan | None = None) -> Heard:
    plan, found = plan or planned(config), Heard()
    execute(config, plan, Store(root), place_of(config.trainer), on_curves=report_progress(found, plan))
    return found


def test_every_point_of_the_last_stage_is_heard_and_its_end_is_not(tmp_path: Path) -> None:
    steps = heard(tiny(*CELL), tmp_path)
    shares = [[point.share for point in points] for points in steps if points]
    assert shares == [[Fraction(k, 4) for k in range(1, n + 1)] for n in (1, 2, 3)]
    assert {name.rpartition("/")[0] for name in steps[-1][0].means} == {"val/d1", "val/d2", "val/union"}


def test_seeds_that_train_one_after_the_other_are_heard_with_the_last_and_have_the_same_means(tmp_path: Path) -> None:
    config = tiny(*CELL)
    together = heard(config, tmp_path / "together")
    apart = heard(with_replicas(config, 2), tmp_path / "apart")
    assert [points for points in apart if points] == [points for points in together if points]
    n_before = next(k for k, points in enumerate(apart) if points)
    assert n_before == 2 * 3 + 3, "two groups in stage 1, and the first one in stage 2"


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_seed_that_diverges_leaves_no_mean(replicas: int, tmp_path: Path) -> None:
    config = with_replicas(tiny(*CELL, "regimes=[combined]"), replicas)
    plan = planned(config)
    first = next(iter(plan.nodes))
    nodes = plan.nodes | {first: poisoned(plan.nodes[first])}  # type: ignore[operator]
    calls = heard(config, tmp_path, dataclasses.replace(plan, nodes=nodes))
    assert len(calls) >= 3
    assert not any(calls)


def test_a_cell_with_finished_runs_is_not_heard(tmp_path: Path) -> None:
    config = tiny(*CELL, f"multirun={tmp_path}", "seeds=2")
    run_cell(dataclasses.replace(config, seeds=(1,)))
    found = Heard()
    assert run_cell(config, on_progress=found).failures == ()
    assert found == []
    assert len(list(cell_dir(config).glob("*/result.json"))) == 2
