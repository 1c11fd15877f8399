"""launcher=ray asks Ray for the configured share of a node and replaces what ends. Ray itself is faked: its tasks never run.

`make cluster-check` runs the tasks on a cluster of two nodes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.config import Config, compose
from src.config.schema import RayLauncher
from src.errors import ConfigError
from src.sweep.folder import SweepFolder
from src.sweep.workers.local import MAX_DEATHS
from src.sweep.workers.ray import RayWorkers, capacity, request

ENGINE = "tests.sweep.fake_engine"
NODES = [
    {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0, "memory": 8 * 2**30}},
    {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 8 * 2**30}},
    {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
]


class FakeRay:
    """The part of Ray's interface that the launcher uses. `ended`: by task, None or the exception that it ended with."""

    class RayError(Exception):
        pass

    def __init__(self, nodes: list[dict[str, Any]]) -> None:
        self.exceptions = SimpleNamespace(RayError=self.RayError)
        self.util = SimpleNamespace(
            placement_group=lambda bundles, strategy: f"{strategy} {bundles}",
            remove_placement_group=lambda group: self.removed.append(group),
        )
        self.nodes = lambda: nodes
        self.options: list[dict[str, Any]] = []
        self.cancelled: list[tuple[int, bool]] = []
        self.removed: list[str] = []
        self.ended: dict[int, Exception | None] = {}

    def is_initialized(self) -> bool:
        return True

    def remote(self, **options: Any) -> Any:
        self.options.append(options)
        return lambda _: SimpleNamespace(remote=lambda *_: len(self.options) - 1)

    def wait(self, tasks: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        return [t for t in tasks if t in self.ended], [t for t in tasks if t not in self.ended]

    def get(self, task: int) -> None:
        if (error := self.ended[task]) is not None:
            raise error

    def cancel(self, task: int, force: bool = False) -> None:
        self.cancelled.append((task, force))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay(NODES)
    strategies = SimpleNamespace(
        PlacementGroupSchedulingStrategy=lambda group, placement_group_bundle_index: (
            group,
            placement_group_bundle_index,
        )
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path, "s")


def config(*keys: str) -> Config:
    return compose(["launcher=ray", "launcher.address=auto", *keys])


@pytest.mark.parametrize(
    ("keys", "on_gpus", "wanted"),
    [
        ([], False, {"CPU": 1}),
        ([], True, {"CPU": 1, "GPU": 1}),
        (["trainer.slots=2", "launcher.cpus=3", "launcher.mem=1.5"], True, {"CPU": 3, "GPU": 0.5, "memory": 3 * 2**29}),
        (["trainer.slots=6"], True, {"CPU": 1, "GPU": 0.1666}),  # six of 0.1667 are more than a GPU
        (["trainer=ddp", "trainer.devices=2", "trainer.slots=2", "launcher.cpus=3"], True, {"CPU": 6, "GPU": 2}),
        (["trainer=ddp", "trainer.devices=2"], False, {"CPU": 2}),
    ],
)
def test_a_worker_reserves_its_share(keys: list[str], on_gpus: bool, wanted: dict[str, float]) -> None:
    composed = config(*keys)
    assert isinstance(composed.launcher, RayLauncher)
    assert request(composed.launcher, composed.trainer, on_gpus=on_gpus) == wanted


def test_a_cluster_holds_what_its_live_nodes_hold_each() -> None:
    assert capacity(NODES, {"CPU": 1}) == 8
    assert capacity(NODES, {"CPU": 1, "GPU": 0.5}) == 6
    assert capacity(NODES, {"CPU": 2, "GPU": 2}) == 1, "no worker's devices are on two nodes"
    assert capacity(NODES, {"CPU": 1, "memory": 3 * 2**30}) == 4


def test_tasks_are_as_many_as_the_cluster_holds_and_no_more_than_runs(folder: SweepFolder, ray: FakeRay) -> None:
    workers = RayWorkers(folder, config("trainer.slots=2", "seeds=1", "regimes=[sequential,combined]"), ENGINE)
    workers.keep_running(n_useful=4, n_ended=0)
    workers.keep_running(n_useful=4, n_ended=0)
    assert len(ray.options) == 4, "none has claimed its cell yet"
    workers.keep_running(n_useful=50, n_ended=0)
    assert len(ray.options) == 6
    (options,) = [option for option in ray.options if option is ray.options[0]]
    assert (options["num_gpus"], options["num_cpus"], options["scheduling_strategy"]) == (0.5, 1, "SPREAD")
    assert options["max_retries"] == MAX_DEATHS
    assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "1"
    assert not any("PASS" in name for name in options["runtime_env"]["env_vars"]), "Ray logs them"
    RayWorkers(folder, config("n_workers=9", "trainer=cpu"), ENGINE).keep_running(n_useful=50, n_ended=0)
    assert [option["num_gpus"] for option in ray.options[6:]] == [0] * 9, "as many as asked for, for the autoscaler"


def test_devices_of_one_run_are_a_placement_group_that_ends_with_its_worker(folder: SweepFolder, ray: FakeRay) -> None:
    workers = RayWorkers(folder, config("trainer=ddp", "trainer.devices=2"), ENGINE)
    workers.keep_running(n_useful=5, n_ended=0)
    group = "STRICT_PACK [{'CPU': 2, 'GPU': 2}]"
    assert [option["scheduling_strategy"] for option in ray.options] == [(group, 0)]
    ray.ended[0] = None
    workers.keep_running(n_useful=0, n_ended=5)
    assert ray.removed == [group]


def test_a_task_that_fails_is_replaced_until_it_is_hopeless_and_its_reason_is_in_the_log(
    folder: SweepFolder, ray: FakeRay
) -> None:
    workers = RayWorkers(folder, config("n_workers=1"), ENGINE)
    for death in range(MAX_DEATHS):
        assert workers.keep_running(n_useful=3, n_ended=0) == (death > 0)
        assert not workers.hopeless
        ray.ended[death] = ray.RayError(f"death {death}")
    assert workers.keep_running(n_useful=3, n_ended=0) == 1
    assert workers.hopeless
    assert workers.log(0).read_text().splitlines() == [f"death {death}" for death in range(MAX_DEATHS)]
    assert workers.wait(0)


def test_an_interrupt_cancels_and_a_kill_forces(folder: SweepFolder, ray: FakeRay) -> None:
    workers = RayWorkers(folder, config("n_workers=2"), ENGINE)
    workers.keep_running(n_useful=3, n_ended=0)
    workers.interrupt()
    assert not workers.wait(0)
    workers.kill()
    assert ray.cancelled == [(0, False), (1, False), (0, True), (1, True)]
    ray.ended = dict.fromkeys(range(2))
    assert workers.wait(0)


def test_a_missing_requirement_is_one_line(folder: SweepFolder, ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    ray.nodes = lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}]
    with pytest.raises(
        ConfigError, match=r"^launcher=ray: a worker needs \{'CPU': 9\}, which this machine lacks; lower"
    ):
        RayWorkers(folder, config("launcher.address=local", "launcher.cpus=9"), ENGINE)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ConfigError, match=r"^launcher=ray: needs the extra package ray, which is missing; run make ray$"
    ):
        RayWorkers(folder, config(), ENGINE)
