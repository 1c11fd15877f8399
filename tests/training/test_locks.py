"""Several workers with one store: the first worker trains a stage, and another resumes it if that worker dies.

With real processes: two that train the same cell at once, one that is killed while it holds a stage's lock, one that is killed
within a stage (`kill -9`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import src.training.execute as execute_module
from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.config import Config
from src.training.devices import device_of
from src.training.execute import execute
from src.training.result import ResumePoint
from src.training.store.locks import StageLocks
from src.training.store.store import Store
from tests.training.cells import OnStage, differences, executed, planned, tiny

FORK = multiprocessing.get_context("fork")  # a process with everything imported
TIME_LIMIT = 60.0


def started(what: Callable[..., None], *arguments: object) -> Any:
    process = FORK.Process(target=what, args=arguments, daemon=True)
    process.start()
    return process


def until(there: Callable[[], bool]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + TIME_LIMIT
    while not there():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def hold(folder: Path, keys: list[str]) -> None:
    with StageLocks(folder).held(keys) as taken:
        (folder / "taken").write_text(" ".join(taken))
        time.sleep(TIME_LIMIT)


def train(config: Config, root: Path, report: Path, gate: Any) -> None:
    plan = planned(config)
    gate.wait()
    execution = execute(config, plan, Store(root), device_of(config.trainer))
    report.write_text(json.dumps([sorted(execution.trained), len(execution.failures)]))


def test_a_lock_is_held_by_one_and_freed_by_death(tmp_path: Path) -> None:
    locks = StageLocks(tmp_path)
    with locks.held(["a", "b"]) as mine, locks.held(["b", "c"]) as others:
        assert (mine, others) == (["a", "b"], ["c"])
        assert not locks.any_free(["a", "c"])
        assert locks.any_free(["a", "d"])
    assert locks.any_free(["a"])
    assert list(tmp_path.iterdir()) == [], "no file is left"
    other = started(hold, tmp_path, ["a"])
    until((tmp_path / "taken").exists)
    with locks.held(["a", "b"]) as mine:
        assert mine == ["b"]
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with locks.held(["a", "b"]) as mine:
        assert mine == ["a", "b"]


def test_two_workers_train_every_stage_once(tmp_path: Path) -> None:
    config = tiny("seeds=4", "regimes=[sequential,combined,d1_only]", "stopping.epochs=10", "trainer.replicas=2")
    plan, alone = executed(config)
    gate = FORK.Barrier(2)
    workers = [started(train, config, tmp_path / "store", tmp_path / name, gate) for name in ("one", "two")]
    for worker in workers:
        worker.join(TIME_LIMIT)
    (one, failed), (two, failed_too) = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    assert failed == failed_too == 0
    assert len(one) + len(two) == len({*one, *two}) == len(plan.nodes)
    assert one, "both workers train stages"
    assert two
    for key in plan.nodes:
        found = Store(tmp_path / "store").get(key)
        assert found is not None
        assert differences(found, alone.results[key]) == []


def test_a_worker_waits_for_a_stage_of_another_and_trains_it_if_that_one_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute_module, "POLL_SECONDS", 0.001)
    config = tiny("seeds=3", "regimes=[combined]", "trainer.checkpoint_seconds=0")
    plan, alone = executed(config)
    first, *rest = plan.nodes
    store = Store(tmp_path)
    store.locks.folder.mkdir()
    other = started(hold, store.locks.folder, [first])
    until((store.locks.folder / "taken").exists)
    calls = []

    def hook() -> None:
        there = [key for key in plan.nodes if store.path(key).exists()]
        calls.append(there)
        if len(calls) == 5:  # before the group, at the second check, and while it waits
            assert there == rest, "free stages are trained before a worker waits"
            os.kill(other.pid, signal.SIGKILL)
            other.join()

    execution = execute(config, plan, store, device_of(config.trainer), OnStage(hook))
    assert len(calls) >= 5
    assert execution.trained == set(plan.nodes)
    assert all(differences(execution.results[key], alone.results[key]) == [] for key in plan.nodes)


class Sharing(OnStage):
    """One of `n` workers at a cell."""

    def __init__(self, n: int, call: Callable[[], None] = lambda: None, *, helps: bool = False) -> None:
        super().__init__(call)
        self._n, self.helps = n, helps

    def n_workers(self) -> int:
        return self._n


def test_workers_at_a_cell_take_shares_and_a_helper_leaves_what_others_train(tmp_path: Path) -> None:
    config = tiny("seeds=5", "regimes=[sequential,combined]")
    plan, alone = executed(config)
    place, store = device_of(config.trainer), Store(tmp_path)
    held = [run.stages[0] for run in plan.runs if run.seed < 2]  # stage 1 of sequential, and combined
    behind = {run.stages[1] for run in plan.runs if len(run.stages) == 2 and run.seed < 2}

    free = plan.nodes.keys() - set(held) - behind

    with contextlib.ExitStack() as others, store.locks.held(held[2:]):
        others.enter_context(store.locks.held(held[:2]))

        def go_on() -> None:
            """What others train is finished when the helper has nothing else to do."""
            if all(store.path(key).exists() for key in free):
                for key in held[:2]:
                    store.put(key, alone.results[key])
                others.close()

        helped = execute(config, plan, store, place, Sharing(3, go_on, helps=True))
    assert helped.results.keys() == plan.nodes.keys() - set(held[2:]), "it waits only where more work follows"
    assert helped.trained == plan.nodes.keys() - set(held[2:])
    assert behind <= helped.trained
    assert {helped.results[key].ledger.group for key in helped.trained - set(held)} <= {1, 2}, (
        "a third of five, at most"
    )
    rest = execute(config, plan, store, place, Sharing(2))
    assert rest.trained == set(held[2:]), "what was there before is no part of its cost"
    assert all(differences(rest.results[key], alone.results[key]) == [] for key in plan.nodes)


def test_a_waiting_worker_can_be_stopped(tmp_path: Path) -> None:
    config = tiny("seeds=1", "regimes=[combined]")
    plan = planned(config)
    store = Store(tmp_path)
    calls = []

    def hook() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with store.locks.held(plan.nodes), pytest.raises(KeyboardInterrupt):
        execute(config, plan, store, device_of(config.trainer), OnStage(hook))


def stuck(config: Config, left: Any) -> None:
    """Run the cell and hang at the second checkpoint."""
    keep, saved = Store.put_resume_point, []

    def put_resume_point(store: Store, key: str, progress: ResumePoint) -> None:
        keep(store, key, progress)
        saved.append(progress.updates)
        if len(saved) == 2 * len(config.seeds):
            left.set()
            time.sleep(TIME_LIMIT)

    Store.put_resume_point = put_resume_point  # type: ignore[method-assign] # in this process only
    run_cell(resolve(config))


@pytest.mark.parametrize("arch", [(), ("arch=cnn", "arch.widths=[3]")], ids=["stacked", "one after the other"])
def test_a_killed_stage_resumes(arch: tuple[str, ...], tmp_path: Path) -> None:
    config = tiny("seeds=2", "regimes=[combined]", "stopping.epochs=6", "split.size=40", *arch)
    always = dataclasses.replace(config.trainer, checkpoint_seconds=1e-9)

    def at(folder: str) -> Config:
        return dataclasses.replace(config, multirun=str(tmp_path / folder), trainer=always)

    left = FORK.Event()
    worker = started(stuck, at("killed"), left)
    assert left.wait(TIME_LIMIT)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    parts = list((tmp_path / "killed").rglob("*.part.safetensors"))
    begun = [Store(tmp_path / "killed" / ".stages").resume_point(path.name.partition(".")[0]) for path in parts]
    assert [part.updates for part in begun if part is not None] == [2, 2]
    results = {}
    for folder in ("killed", "whole"):
        assert run_cell(resolve(at(folder))).failures == ()
        paths = sorted(resolve(at(folder)).folder.glob("*/result.json"))
        results[folder] = [json.loads(path.read_text())["result"] for path in paths]
    assert len(results["whole"]) == 2
    assert results["killed"] == results["whole"]
    assert not list((tmp_path / "killed").rglob("*.part.safetensors"))
