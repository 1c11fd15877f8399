"""Size of a group: the user's setting, the memory on a CPU, one measurement on a GPU that the sweep keeps."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from src.errors import ConfigError
from src.models.build import build_model
from src.models.structure import prefers_stacking
from src.regimes.stage import Trainable
from src.training import execute as execute_module
from src.training.devices import Device
from src.training.fit import fit
from src.training.group_size import (
    BUDGET_SECONDS,
    POINT_SECONDS,
    WARM_UP,
    Window,
    decided,
    group_in_training,
    group_limit,
    measured,
    steps_per_second,
)
from src.training.replicas import LoopReplicas, StackedReplicas, trainable_names
from tests.training.captures import NoBranches
from tests.training.cells import CPU, executed, planned, tiny, with_replicas


def test_batch_normalisation_over_several_devices_needs_gpus() -> None:
    config = tiny("arch=resnet18", "seeds=1")
    node = next(iter(planned(config).nodes.values()))
    with pytest.raises(ConfigError, match=r"trainer\.devices=2: batch normalisation"):
        group_limit(config, node, Device(torch.device("cpu"), torch.float32, rank=0, world=2))


def test_the_limit_on_a_cpu_follows_from_the_model_and_the_setting() -> None:
    config = tiny("seeds=1")
    node = next(iter(planned(config).nodes.values()))
    assert group_limit(config, node, CPU) == 128
    assert group_limit(with_replicas(config, 3), node, CPU) == 3
    assert 1 < group_limit(tiny("arch=resnet18"), node, CPU) < 16


class FakeGpu:
    """A clock, and groups whose warm-up takes `warm_up` seconds and whose step takes `step` seconds for each model."""

    def __init__(self, rate: Callable[[int], float], warm_up: float = 0.0, step: float = 0.0) -> None:
        self.rate, self.warm_up, self.step = rate, warm_up, step
        self.now = 0.0
        self.asked: list[int] = []
        self.factors: Iterator[float] = itertools.repeat(1.0)
        """Of the rates of the next windows: noise."""

    def prepare(self, n: int) -> Window:
        self.asked.append(n)
        self.now += n * self.warm_up

        def window(seconds: float) -> float:
            self.now += max(seconds, n * self.step)
            return self.rate(n) * next(self.factors)

        return window

    def measured(self, most: int = 512) -> dict[str, Any]:
        return measured(most, self.prepare, lambda: self.now)


@pytest.mark.parametrize(
    ("most", "updates_per_second", "best"),
    [
        (512, lambda n: 100 * min(n, 32), 32),  # grows with the group up to 32
        (16, lambda n: 100 * min(n, 64), 16),  # limited by memory
        (512, lambda n: 100 - n, 1),  # larger groups are slower
        (512, lambda n: 100 + n, 1),  # larger groups gain less than 5 %
        (512, lambda n: {1: 10, 2: 9, 4: 30}.get(n, 5), 4),  # one bad size does not end the measurement
    ],
)
def test_the_measurement_selects_the_smallest_size_that_no_larger_one_beats(
    most: int, updates_per_second: Callable[[int], float], best: int
) -> None:
    gpu = FakeGpu(updates_per_second)
    assert gpu.measured(most)["replicas"] == best
    assert max(gpu.asked) <= min(most, 4 * best)


@pytest.mark.parametrize(("warm_up", "step"), [(0, 0), (0.001, 0.0005), (0.1, 0.002), (0.4, 0.3), (0, 1.0)])
def test_all_sizes_together_take_less_than_the_budget(warm_up: float, step: float) -> None:
    gpu = FakeGpu(lambda n: n, warm_up, step)  # every size gains, so only the budget ends the measurement
    found = gpu.measured()
    assert found["seconds"] == pytest.approx(gpu.now - warm_up, abs=0.01)  # without the first use of the libraries
    assert found["seconds"] <= BUDGET_SECONDS
    assert found["replicas"] == max(gpu.asked) >= 1
    assert gpu.now - warm_up >= len(found["updates_per_second"]) * POINT_SECONDS - 1e-9


def test_one_disturbed_window_does_not_decide() -> None:
    quiet = FakeGpu(lambda n: 100.0 * min(n, 8)).measured()
    for slow_or_fast in (0.01, 100.0):
        gpu = FakeGpu(lambda n: 100.0 * min(n, 8))
        gpu.factors = itertools.cycle([1.0, slow_or_fast, 1.0])
        assert gpu.measured() == quiet


def test_a_size_that_exceeds_the_memory_ends_the_measurement() -> None:
    gpu = FakeGpu(float)

    def prepare(n: int) -> Window:
        if n > 8:
            raise torch.cuda.OutOfMemoryError
        return gpu.prepare(n)

    found = measured(512, prepare, lambda: gpu.now)
    assert found == {"replicas": 8, "seconds": 2.0, "updates_per_second": {"1": 1.0, "2": 2.0, "4": 4.0, "8": 8.0}}


@pytest.mark.parametrize("step", [0.0001, 0.01, 0.3])
def test_a_window_lasts_as_long_as_required_and_waits_for_the_device_a_few_times(step: float) -> None:
    waits: list[float] = [0.0]

    def train(steps: int) -> None:
        waits.append(waits[-1] + steps * step)

    assert steps_per_second(train, 0.2, lambda: waits[-1]) == pytest.approx(1 / step)
    assert max(0.2, step) <= waits[-1] + 1e-9 < 0.2 + 1.01 * step
    assert len(waits) <= 15


def test_the_size_is_decided_once_for_each_architecture_and_device_and_stored_with_the_sweep(tmp_path: Path) -> None:
    answers = iter([16, 64])
    asked = [
        decided(tmp_path / "sweep", {"arch": arch, "device": "card"}, lambda: {"replicas": next(answers)})
        for arch in ("mlp", "cnn", "mlp", "cnn", "mlp")
    ]
    assert asked == [16, 64, 16, 64, 16]
    noted = json.loads((tmp_path / "sweep" / "replicas.json").read_text()).values()
    assert [(note["arch"], note["device"], note["replicas"]) for note in noted] == [
        ("mlp", "card", 16),
        ("cnn", "card", 64),
    ]


def test_the_rate_is_measured_with_the_stages_own_model_and_batch() -> None:
    for overrides in (["arch=cnn", "arch.widths=[4]"], ["trainer.precision=bf16-mixed"]):
        config = tiny("seeds=1", *overrides)
        assert group_in_training(config, next(iter(planned(config).nodes.values())), CPU, 2)(0.01) > 0


class Recorder:
    """Records an update as a function, and counts replays."""

    def __init__(self, *, can_record: bool, waits_at: str | None = None) -> None:
        self.branches, self.can_record, self.waits_at = NoBranches(), can_record, waits_at
        self.n_warm_up = self.n_replays = 0

    def warm_up(self, update: Callable[[], None]) -> str | None:
        self.n_warm_up += 1
        update()
        return self.waits_at

    def record(self, update: Callable[[], None]) -> Callable[[], None]:
        if not self.can_record:
            raise RuntimeError("planted")

        def replay() -> None:
            self.n_replays += 1
            update()

        return replay

    def upload(self, tensor: torch.Tensor, target: torch.Tensor) -> None:
        raise AssertionError("the probe uploads nothing")


@pytest.mark.parametrize(
    ("graph", "can_record", "waits_at"),
    [("auto", True, None), ("auto", False, None), ("auto", True, "net.py:7"), ("off", True, None)],
)
def test_the_rate_is_that_of_the_graph_by_which_stages_train(
    graph: str, can_record: bool, waits_at: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(can_record=can_record, waits_at=waits_at)
    monkeypatch.setattr("src.training.graph.choice.capture_on", lambda _: recorder)
    config = tiny("seeds=1", "arch=cnn", "arch.widths=[4]", f"trainer.graph={graph}")
    window = group_in_training(config, next(iter(planned(config).nodes.values())), CPU, 3)
    assert window(0.01) > 0
    assert (recorder.n_replays > 0) == (graph == "auto" and can_record and waits_at is None)
    assert recorder.n_warm_up == (WARM_UP if graph == "auto" else 0)
    assert (recorder.branches.forked > 0) == (graph == "auto"), "a CNN's models run side by side in a graph"


def test_stacked_convolutions_are_the_plain_ones() -> None:
    """The engine for a CNN on a GPU: outputs and gradients of every model are independent of the others."""
    config = tiny("arch=cnn", "arch.widths=[4,6]")
    models = [build_model(config.arch, (3, 9, 9), 5, seed, torch.float64) for seed in range(3)]
    assert prefers_stacking(models[0], "cuda")
    assert not prefers_stacking(models[0], "cpu")
    x = torch.randn(3, 7, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for stacked in (False, True):
        own = [build_model(config.arch, (3, 9, 9), 5, seed, torch.float64) for seed in range(3)]
        engine = StackedReplicas if stacked else LoopReplicas
        replicas = engine(own, trainable_names(own[0], Trainable()))
        outputs = replicas(x)
        outputs.square().sum().backward()  # type: ignore[no-untyped-call]
        gradients: dict[tuple[str, int], torch.Tensor] = {}
        for name, parameter, model in replicas.named_trainable():
            assert parameter.grad is not None
            each = [(model, parameter.grad)] if model is not None else list(enumerate(parameter.grad))
            gradients |= {(name, r): gradient for r, gradient in each}
        found.append((outputs, gradients))
    (plain, plain_gradients), (stacked, stacked_gradients) = found
    torch.testing.assert_close(stacked, plain)
    assert stacked_gradients.keys() == plain_gradients.keys()
    for key, gradient in plain_gradients.items():
        torch.testing.assert_close(stacked_gradients[key], gradient)


def test_a_group_that_does_not_fit_is_halved_and_its_ledgers_record_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(config: Any, nodes: Any, *args: Any, **kwargs: Any) -> Any:
        if len(nodes) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return fit(config, nodes, *args, **kwargs)

    monkeypatch.setattr(execute_module, "fit", small)
    plan, execution = executed(tiny("seeds=3", "regimes=[combined]"))
    assert not execution.failures
    ledgers = [execution.results[key].ledger for key in plan.groups[0]]
    assert [ledger.group for ledger in ledgers] == [1, 2, 2]
    assert {ledger.split for ledger in ledgers} == {"3 together: OutOfMemoryError: CUDA out of memory"}
