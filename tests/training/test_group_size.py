"""Size of a group: the user's setting, the memory on a CPU, one measurement on a GPU that the sweep keeps."""

from __future__ import annotations

import json
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
from src.training.group_size import decided, group_limit, measured, rate
from src.training.replicas import make_replicas
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


@pytest.mark.parametrize(
    ("most", "updates_per_second", "best"),
    [
        (512, lambda n: 100 * min(n, 64), 64),  # grows with the group up to 64
        (32, lambda n: 100 * min(n, 64), 32),  # limited by memory
        (512, lambda n: 100 - n, 1),  # larger groups are slower
        (512, lambda n: 100 + n, 1),  # larger groups gain less than 5 %
        (512, lambda n: {1: 10, 2: 9, 4: 30}.get(n, 5), 4),  # one bad size does not end the measurement
    ],
)
def test_the_measurement_selects_the_smallest_size_that_no_larger_one_beats(
    most: int, updates_per_second: Any, best: int
) -> None:
    asked: list[int] = []

    def rate_of(n: int) -> float:
        asked.append(n)
        return float(updates_per_second(n))

    assert measured(most, rate_of)["replicas"] == best
    assert max(asked) <= min(most, 4 * best)


def test_a_size_that_exceeds_the_memory_ends_the_measurement() -> None:
    def rate_of(n: int) -> float:
        if n > 8:
            raise torch.cuda.OutOfMemoryError
        return float(n)

    assert measured(512, rate_of) == {"replicas": 8, "updates_per_second": {"1": 1.0, "2": 2.0, "4": 4.0, "8": 8.0}}


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
        assert rate(config, next(iter(planned(config).nodes.values())), CPU, 2) > 0


def test_stacked_convolutions_are_the_plain_ones() -> None:
    """The engine for a CNN on a GPU: outputs and gradients of every model are independent of the others."""
    config = tiny("arch=cnn", "arch.widths=[4,6]")
    models = [build_model(config.arch, (3, 9, 9), 5, seed, torch.float64) for seed in range(3)]
    assert prefers_stacking(models[0], "cuda")
    assert not prefers_stacking(models[0], "cpu")
    x = torch.randn(3, 7, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for stacked in (False, True):
        replicas = make_replicas(
            [build_model(config.arch, (3, 9, 9), 5, seed, torch.float64) for seed in range(3)],
            Trainable(),
            stacked=stacked,
        )
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
