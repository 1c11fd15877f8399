"""Progress reports: means over all runs of a cell at the points that all of them have reached."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.config import Config
from src.training.control import ProgressReport, RunControl
from src.training.devices import device_of
from src.training.execute import execute
from src.training.plan import StagePlan
from src.training.store.store import Store
from tests.training.cells import planned, tiny, with_replicas
from tests.training.test_groups import poisoned

CELL = ("regimes=[sequential]", "arch.widths=[5]", "stopping.epochs=4")


class Recorder(RunControl):
    """Collects all progress reports, call by call."""

    wants_progress = True

    def __init__(self) -> None:
        self.calls: list[list[ProgressReport]] = []

    def on_progress(self, reports: Sequence[ProgressReport]) -> None:
        self.calls.append(list(reports))


def recorded(config: Config, root: Path, plan: StagePlan | None = None) -> list[list[ProgressReport]]:
    control = Recorder()
    execute(config, plan or planned(config), Store(root), device_of(config.trainer), control)
    return control.calls


def test_every_point_of_the_last_stage_but_its_end_is_reported(tmp_path: Path) -> None:
    steps = recorded(tiny(*CELL), tmp_path)
    shares = [[point.share for point in points] for points in steps if points]
    assert shares == [[Fraction(k, 4) for k in range(1, n + 1)] for n in (1, 2, 3)]
    assert {name.rpartition("/")[0] for name in steps[-1][0].means} == {"val/d1", "val/d2", "val/union"}


def test_seeds_in_several_groups_are_reported_with_the_last_group_and_have_the_same_means(tmp_path: Path) -> None:
    config = tiny(*CELL)
    together = recorded(config, tmp_path / "together")
    apart = recorded(with_replicas(config, 2), tmp_path / "apart")
    assert [points for points in apart if points] == [points for points in together if points]
    n_before = next(k for k, points in enumerate(apart) if points)
    assert n_before == 2 * 3 + 3, "two groups in stage 1, and the first one in stage 2"


@pytest.mark.parametrize("replicas", [1, 3])
def test_no_means_are_reported_when_a_seed_diverges(replicas: int, tmp_path: Path) -> None:
    config = with_replicas(tiny(*CELL, "regimes=[combined]"), replicas)
    plan = planned(config)
    first = next(iter(plan.nodes))
    nodes = plan.nodes | {first: poisoned(plan.nodes[first])}  # type: ignore[operator]
    calls = recorded(config, tmp_path, dataclasses.replace(plan, nodes=nodes))
    assert len(calls) >= 3
    assert not any(calls)


def test_a_cell_with_finished_runs_reports_no_progress(tmp_path: Path) -> None:
    config = tiny(*CELL, f"multirun={tmp_path}", "seeds=2")
    run_cell(resolve(dataclasses.replace(config, seeds=(1,))))
    control = Recorder()
    assert run_cell(resolve(config), control).failures == ()
    assert control.calls == []
    assert len(list(resolve(config).folder.glob("*/result.json"))) == 2
