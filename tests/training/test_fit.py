"""The training loop compared with a plain PyTorch loop, and the state that a fit must not change.

Oracle: the same batches through torch's own cross entropy and optimizers give the same weights, bit for bit under engine
`loop`; stacked to rounding. Properties: a fit does not change the global random state, trains in the configured
precision, and streams the same batches as those of resident data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import src.training.monitor as monitor_module
from src.config import Config
from src.errors import ConfigError
from src.models.build import build_model
from src.optimizers import OptimizerConfig
from src.training.devices import CUDNN, device_of
from src.training.fit import fit
from src.training.graph import choice
from src.training.plan import Node
from src.training.result import StageResult
from tests.training.cells import CPU, differences, executed, planned, same_bits, tiny

OPTIMIZERS = {
    "sgd": ("optimizer=sgd", "optimizer.momentum=0"),
    "momentum": ("optimizer=sgd", "optimizer.weight_decay=0.01"),
    "adam": ("optimizer=adam", "optimizer.weight_decay=0.01"),
    "adamw, cosine": ("optimizer=adamw", "optimizer.schedule=cosine"),
}
ARCHITECTURES = {"mlp": ("arch=mlp",), "cnn": ("arch=cnn", "arch.widths=[4]"), "linear": ("arch=linear",)}


def never(*_: object) -> bool:
    return False


def one_stage(*overrides: str) -> tuple[Config, Node]:
    """The only stage of combined at seed 0."""
    config = tiny("regimes=[combined]", "seeds=1", *overrides)
    (node,) = planned(config).nodes.values()
    return config, node


def started(config: Config, node: Node, dtype: torch.dtype = torch.float32) -> nn.Module:
    return build_model(config.arch, node.stream.input_shape, node.stream.n_outputs, node.seed, dtype)


def torch_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    if config.name == "sgd":
        return torch.optim.SGD(model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name]
    return kind(model.parameters(), config.lr, weight_decay=config.weight_decay)


def laid_out(x: torch.Tensor) -> torch.Tensor:
    """Images in channels-last memory, as in the loop engine on a CPU."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def plain_loop(config: Config, node: Node, loss: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    """The stage without any of the project's training code."""
    model = started(config, node).to(memory_format=torch.channels_last)
    optimizer = torch_optimizer(config.optimizer, model)
    inputs = torch.cat([part.inputs() for part in node.data.parts])
    labels = torch.cat([part.y for part in node.data.parts])
    n_updates = 0
    for epoch in range(node.length.n_epochs):
        for rows in torch.from_numpy(node.data.order(epoch)).split(node.length.batch_size):
            if config.optimizer.schedule == "cosine":
                for group in optimizer.param_groups:
                    share = n_updates / node.length.updates
                    group["lr"] = config.optimizer.lr * (0.5 * (1 + math.cos(math.pi * share)))
            optimizer.zero_grad()
            loss(model(laid_out(inputs[rows])), labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            n_updates += 1
    assert n_updates == node.length.updates
    return model


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_loop_engine_is_a_plain_loop_bit_for_bit(
    arch: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "prefers_stacking", never)
    config, node = one_stage(*ARCHITECTURES[arch], *OPTIMIZERS[optimizer], "optimizer.batch_size=16")
    (result,) = fit(config, [node], [started(config, node)], CPU)
    plain = plain_loop(config, node, functional.cross_entropy)
    assert result.ledger.engine == "loop"
    assert (result.ledger.updates, result.ledger.samples) == (8, 120)
    for name, tensor in plain.state_dict().items():
        assert same_bits(result.weights[name], tensor), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_stacked_engine_is_a_plain_loop_to_rounding(optimizer: str) -> None:
    config, node = one_stage(*OPTIMIZERS[optimizer], "optimizer.batch_size=60", "stopping.epochs=1")
    (result,) = fit(config, [node], [started(config, node)], CPU)
    plain = plain_loop(config, node, functional.cross_entropy)
    assert result.ledger.engine == "vmap"
    assert result.ledger.updates == 1
    # Adam's first update is lr x the gradient's sign: where it is nearly 0, rounding decides, by at most 2 lr
    close = 1e-6 if config.optimizer.name == "sgd" else 0.0
    for name, tensor in plain.state_dict().items():
        far = (result.weights[name] - tensor).abs() > max(close, 1e-6)
        assert float(far.double().mean()) <= (0 if close else 0.01), name


def test_the_squared_error_of_a_regression_is_a_plain_loop_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "prefers_stacking", never)
    config, node = one_stage("data=gaussian", "arch=linear", "loss=mse", "optimizer.lr=0.01", "optimizer.batch_size=16")
    (result,) = fit(config, [node], [started(config, node)], CPU)
    plain = plain_loop(config, node, lambda out, y: (out - y.float()).square().mean(1).sum() * (1 / len(y)))
    for name, tensor in plain.state_dict().items():
        assert same_bits(result.weights[name], tensor), name


def test_curve_metrics_equal_plain_torch() -> None:
    config, node = one_stage("split.imbalance=3", "split.size=40", "stopping.epochs=1")
    (result,) = fit(config, [node], [started(config, node)], CPU)
    model = started(config, node)
    model.load_state_dict(dict(result.weights))
    for number, pool in enumerate(node.stream.val.pools):
        with torch.no_grad():
            losses = functional.cross_entropy(model(pool.inputs()), pool.y, reduction="none").double().numpy()
            hits = (model(pool.inputs()).argmax(1) == pool.y).double().numpy()
        for c in range(10):
            mine = pool.y.numpy() == c
            assert result.curves.loss[number][-1, c] == pytest.approx(losses[mine].mean(), rel=1e-5)
            assert result.curves.recall[number][-1, c] == pytest.approx(hits[mine].mean())


@pytest.mark.parametrize("points", [1, 2, 3, 20])
def test_a_curve_has_a_limited_number_of_points_and_ends_with_the_stage(points: int) -> None:
    config, node = one_stage("stopping.epochs=7", f"trainer.curve_points={points}")
    (result,) = fit(config, [node], [started(config, node)], CPU)
    steps = result.curves.steps
    assert len(steps) <= max(points, 1) + (7 % -(-7 // points) > 0)
    assert steps[-1] == result.ledger.updates
    assert (np.diff(steps) > 0).all()
    every = fit(replace_curve(config, 7), [node], [started(config, node)], CPU)[0].curves
    per_epoch = node.length.updates_per_epoch
    for k, step in enumerate(steps):  # the mean over the updates since the previous point
        before = steps[k - 1] if k else 0
        mean = every.train_loss[before // per_epoch : step // per_epoch].mean()
        assert result.curves.train_loss[k] == pytest.approx(mean, rel=1e-6)


def replace_curve(config: Config, points: int) -> Config:
    return replace(config, trainer=replace(config.trainer, curve_points=points))


# ------------------------------------------------------------------------------------------------ what it does not change


class Noisy(nn.Sequential):
    """A network that draws random numbers in training."""

    def __init__(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Dropout(0.4), nn.Linear(12, 10))


def test_dropout_has_its_own_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("regimes=[combined]", "optimizer.batch_size=16")
    nodes = list(planned(config).nodes.values())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    together = fit(config, nodes, [Noisy(node.seed) for node in nodes], CPU)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    torch.manual_seed(6)
    alone = [fit(config, [node], [Noisy(node.seed)], CPU)[0] for node in nodes]
    assert [differences(a, b) for a, b in zip(together, alone, strict=True)] == [[]] * len(nodes)
    monkeypatch.setattr(monitor_module, "has_dropout", never)
    undirected = fit(config, nodes[:1], [Noisy(nodes[0].seed)], CPU)[0]
    assert differences(undirected, alone[0]), "dropout was off: the test sees nothing"


@pytest.mark.parametrize("resident_mib", [1024, 0])
def test_a_fit_does_not_change_the_global_random_state(resident_mib: int) -> None:
    config, node = one_stage(f"trainer.resident_mib={resident_mib}")
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr] # noqa: NPY002
    fit(config, [node], [started(config, node)], CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpy_before  # type: ignore[index,union-attr] # noqa: NPY002


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("arch=cnn", "arch.widths=[4]"),
        ("stopping=convergence", "stopping.max_epochs=3"),
        ("data=gaussian", "arch=linear", "loss=mse", "optimizer.lr=0.01"),
        ("split.shift.kind=rotate", "split.shift.amount=30", "optimizer.batch_size=full"),
        ("augment=[flip,crop]", "regimes=[{replay: {share: 0.3}}]"),
        ("augment=[crop]", "optimizer.batch_size=full"),
        ("regimes=[{replay: {share: 0.3}}]",),
    ],
    ids=lambda overrides: " ".join(overrides) or "mlp",
)
def test_streamed_batches_are_the_resident_ones(overrides: tuple[str, ...]) -> None:
    config = tiny("seeds=2", "optimizer.batch_size=16", *overrides)
    streaming = replace(config, trainer=replace(config.trainer, resident_mib=0))
    plan, resident = executed(config)
    _, streamed = executed(streaming, plan=plan)
    assert not resident.failures
    assert {key: differences(resident.results[key], streamed.results[key]) for key in plan.nodes} == {
        key: [] for key in plan.nodes
    }


# ------------------------------------------------------------------------------------------------ precision


def trained_in(precision: str, *overrides: str) -> StageResult:
    plan, execution = executed(tiny("regimes=[combined]", "seeds=1", f"trainer.precision={precision}", *overrides))
    assert not execution.failures
    return execution.results[next(iter(plan.nodes))]


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_double_precision_is_double_throughout(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "prefers_stacking", never)
    overrides = ("optimizer.batch_size=16", *ARCHITECTURES[arch])
    result = trained_in("64", *overrides)
    config, node = one_stage(*overrides)
    model = started(config, node, torch.float64).to(memory_format=torch.channels_last)
    optimizer = torch_optimizer(config.optimizer, model)
    inputs = torch.cat([part.inputs(torch.float64) for part in node.data.parts])
    for epoch in range(2):
        for rows in torch.from_numpy(node.data.order(epoch)).split(16):
            optimizer.zero_grad()
            functional.cross_entropy(model(laid_out(inputs[rows])), node.data.labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    for name, tensor in model.state_dict().items():
        assert same_bits(result.weights[name], tensor), name


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_mixed_precision_keeps_single_weights_and_rounds_products(arch: str) -> None:
    mixed, single = trained_in("bf16-mixed", *ARCHITECTURES[arch]), trained_in("32", *ARCHITECTURES[arch])
    for name, tensor in single.weights.items():
        assert mixed.weights[name].dtype == torch.float32
        assert not torch.equal(mixed.weights[name], tensor), f"{name}: nothing was rounded"
        assert float((mixed.weights[name] - tensor).abs().max()) < 0.05


@pytest.fixture
def _as_torch_starts() -> Iterator[None]:
    for part in CUDNN:
        part.fp32_precision = "tf32"
    yield
    for part in CUDNN:
        part.fp32_precision = "tf32"
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.usefixtures("_as_torch_starts")
def test_tf32_rounds_the_products_of_updates_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are scored in full precision, and torch's own TF32 for convolutions is off on a GPU."""

    def modes() -> tuple[str, ...]:
        return torch.get_float32_matmul_precision(), *(part.fp32_precision for part in CUDNN)

    config, node = one_stage("optimizer.batch_size=16")
    config = replace(config, trainer=replace(config.trainer, name="auto", precision="tf32"))
    with monkeypatch.context() as visible:
        visible.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ConfigError, match="tf32: needs a GPU; on a CPU use bf16-mixed or 32"):
            device_of(config.trainer)
        visible.setattr(torch.cuda, "is_available", lambda: True)
        visible.setattr(torch.cuda, "device_count", lambda: 1)
        assert device_of(config.trainer).torch_device.type == "cuda"
    assert modes() == ("highest", "ieee", "ieee")
    during: list[tuple[str, ...]] = []
    fit(config, [node], [started(config, node)], CPU, observer=lambda _: during.append(modes()))
    assert set(during) == {("high", "tf32", "tf32")}
    assert modes() == ("highest", "ieee", "ieee")


def test_an_update_that_overflows_the_weights_is_a_divergence() -> None:
    config, node = one_stage("optimizer.lr=3e38", "optimizer.batch_size=full", "stopping.epochs=1")
    config = replace(config, optimizer=replace(config.optimizer, momentum=0.9, weight_decay=1e38))
    (result,) = fit(config, [node], [started(config, node)], CPU)
    assert np.isfinite(result.curves.train_loss).all(), "the only recorded loss is that of the initial weights"
    assert result.ledger.stopped_by == "diverged"
