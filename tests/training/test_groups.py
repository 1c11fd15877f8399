"""Grouped = single: a stage trained in a group equals, bit for bit, the stage trained alone.

For both engines, all optimizers, every stopping rule, shapes whose rows do not fill whole 16 bytes, models that stop at
different epochs, and one whose numbers stop being finite. Weights, optimizer state, curves and ledger are compared.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from src.config import Config
from src.data.stream import Bank
from src.models.build import build_model
from src.training import feed as feed_module
from src.training.execute import Execution
from src.training.feed import batch_positions
from src.training.fit import fit
from src.training.plan import Node, StagePlan
from tests.training.cells import CPU, differences, executed, planned, same_bits, tiny, with_replicas

EARLY = ("stopping=early_stopping", "stopping.max_epochs=12", "stopping.patience=1", "optimizer.lr=0.5")
CONVERGE = ("stopping=convergence", "stopping.max_epochs=12", "stopping.tolerance=1")
KEPT = ("regimes=[{sequential: {reset_optimizer: false}}]",)
CELLS = {
    "mlp": (),
    "mlp, odd widths, adamw, cosine": (
        "arch.widths=[13,7]",
        "optimizer=adamw",
        "optimizer.schedule=cosine",
        "optimizer.batch_size=7",
    ),
    "mlp, one unit, weight decay": ("arch.widths=[1]", "optimizer.weight_decay=0.01"),
    "mlp, batches of one": ("split.size=20", "optimizer.batch_size=1", "optimizer=adam", "arch.widths=[7]"),
    "mlp, early stopping": EARLY,
    "mlp, early stopping on accuracy, adam": (*EARLY, "stopping.monitor=accuracy", "optimizer=adam"),
    "mlp, convergence": CONVERGE,
    "mlp, convergence by gradient": (*CONVERGE, "stopping.quantity=gradient", "stopping.tolerance=0.4"),
    "mlp, momentum kept over early stopping": (*EARLY, *KEPT, "optimizer.weight_decay=0.01"),
    "mlp, adam kept over early stopping": (*EARLY, *KEPT, "optimizer=adam", "optimizer.lr=0.05"),
    "mlp, few curve points": (*EARLY, "trainer.curve_points=3"),
    "linear, 50 features, regression": ("data=gaussian", "arch=linear", "loss=mse", "optimizer.lr=0.01"),
    "linear, double precision": ("arch=linear", "trainer.precision=64", "optimizer=adam"),
    "mlp, mixed precision": ("trainer.precision=bf16-mixed",),
    "cnn": ("arch=cnn", "arch.widths=[4,5]", "optimizer.batch_size=7"),
    "cnn, augmented": ("arch=cnn", "arch.widths=[4]", "augment=[flip,crop]"),
    "mlp, augmented, early stopping": (*EARLY, "augment=[crop]"),
    "cnn, early stopping, momentum kept": ("arch=cnn", "arch.widths=[4]", *EARLY, *KEPT),
    "cnn, convergence": ("arch=cnn", "arch.widths=[4]", *CONVERGE),
}


def apart(plan: StagePlan, a: Execution, b: Execution) -> dict[str, list[str]]:
    """Differences between two results by stage."""
    assert not a.failures
    assert not b.failures
    assert a.results.keys() == b.results.keys() == plan.nodes.keys()
    found = {key: differences(a.results[key], b.results[key]) for key in plan.nodes}
    return {key: what for key, what in found.items() if what}


@pytest.mark.parametrize("name", CELLS)
def test_a_group_changes_nothing(name: str) -> None:
    config = tiny("seeds=5", *CELLS[name])
    plan, alone = executed(with_replicas(config, 1))
    ledgers = [result.ledger for result in alone.results.values()]
    if "early" in name or "convergence" in name:
        assert len({ledger.epochs for ledger in ledgers}) > 2, "models must stop at different epochs"
    assert {ledger.group for ledger in ledgers} == {1}
    for replicas in (2, 5):
        _, grouped = executed(with_replicas(config, replicas), plan=plan)
        if name != "mlp, adam kept over early stopping":  # steps differ there, so that groups are smaller
            assert max(result.ledger.group for result in grouped.results.values()) == replicas
        assert apart(plan, alone, grouped) == {}


def poisoned(node: Node) -> Node:
    """The stage with one sample that is not a number."""
    part = node.data.parts[0]
    x = part.bank.x.clone()
    x[part.rows[0]] = torch.inf
    bad = dataclasses.replace(part, bank=Bank(x, part.bank.mean, part.bank.std))
    return dataclasses.replace(node, data=dataclasses.replace(node.data, parts=(bad, *node.data.parts[1:])))


def fitted(config: Config, nodes: list[Node]) -> list:  # type: ignore[type-arg]
    models = [build_model(config.arch, n.stream.input_shape, n.stream.n_outputs, n.seed) for n in nodes]
    return fit(config, nodes, models, CPU, keep_optimizer=True)


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("name", ["mlp", "cnn", "mlp, early stopping", "mlp, convergence"])
def test_a_model_that_diverges_does_not_affect_its_group(name: str, place: int) -> None:
    config = tiny("seeds=4", "regimes=[combined]", *CELLS[name])
    nodes = list(planned(config).nodes.values())
    alone = [fitted(config, [node])[0] for node in nodes]
    ill = poisoned(nodes[place])
    together = fitted(config, [ill if k == place else node for k, node in enumerate(nodes)])
    for k in range(4):
        if k != place:
            assert differences(together[k], alone[k]) == []
    (ill_alone,) = fitted(config, [ill])
    for result in (together[place], ill_alone):
        assert result.ledger.diverged
        assert result.ledger.updates <= nodes[0].length.updates_per_epoch, "detected in the first epoch"
    assert differences(together[place], ill_alone) == []


def test_the_alignment_of_a_matrix_does_not_change_a_product() -> None:
    # grouped = single depends on this with stacked parameters; torch's default does not guarantee it
    x, w = torch.randn(7, 13), torch.randn(10, 13)

    def product(place: int) -> torch.Tensor:
        a, b = torch.randn(5, 7, 13), torch.randn(5, 10, 13)
        a[place], b[place] = x, w
        return torch.bmm(a, b.transpose(1, 2))[place]

    assert all(same_bits(product(0), product(place)) for place in range(1, 5))


def test_a_stopped_model_keeps_its_best_weights_while_others_continue() -> None:
    plan, execution = executed(tiny("seeds=5", "regimes=[combined]", *EARLY, "trainer.curve_points=50"))
    epochs = set()
    for key, result in execution.results.items():
        node, ledger = plan.nodes[key], result.ledger
        epochs.add(ledger.epochs)
        assert ledger.group == 5
        assert node.monitor is not None
        model = build_model(tiny().arch, node.stream.input_shape, 10, node.seed)
        model.load_state_dict(dict(result.weights))
        total = 0.0
        for pool, weights in node.monitor.weights.items():
            samples = node.stream.val.pools[pool]
            with torch.no_grad():
                losses = torch.nn.functional.cross_entropy(model(samples.inputs()), samples.y, reduction="none")
            total += float((weights * losses.double()).sum())
        curve = validation(node, result.curves.loss)
        assert total == pytest.approx(curve.min(), rel=1e-5)
        assert curve[-1] == curve.min(), "the last point is that of the restored weights"
        assert ledger.best_epoch == int(np.argmin(curve)) + 1
    assert len(epochs) > 1


def validation(node: Node, per_class: tuple[np.ndarray, ...]) -> np.ndarray:
    """The monitored loss at every point of the curve, from the classes' means."""
    assert node.monitor is not None
    total = 0.0
    for pool, weights in node.monitor.weights.items():
        y = node.stream.val.pools[pool].y.numpy()
        total = total + (per_class[pool] * np.bincount(y, weights=weights.numpy(), minlength=10)).sum(1)
    return np.asarray(total)


def test_bytes_scaled_batch_by_batch_give_the_same_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Data that are too large to be stored scaled are stored as bytes; training and scoring read the same numbers."""
    rng = np.random.default_rng(0)
    file = tmp_path / "bytes.npz"
    np.savez(file, x=rng.integers(0, 256, (200, 8, 8), dtype=np.uint8), y=np.arange(200) % 4)
    config = tiny("seeds=3", "data=arrays", f"data.path={file}", "split.size=60")
    plan, scaled = executed(config)
    monkeypatch.setattr(feed_module, "RAW_ABOVE_MIB", 0)
    table = feed_module.Table([next(iter(plan.nodes.values())).data.parts], CPU)
    assert table._x.dtype == torch.uint8
    _, raw = executed(config, plan=plan)
    assert apart(plan, scaled, raw) == {}


def test_a_batch_of_all_samples_has_the_same_order_in_a_group_with_replay() -> None:
    """Sequential's second stage sees its 30 samples in one batch; replay's, of the same shape, draws 30 from two pools."""
    plan = planned(tiny("regimes=[sequential,replay]", "seeds=1"))
    alone, drawing = (plan.nodes[key] for key in plan.groups[-1])
    assert (alone.shape, alone.length.n_epochs) == (drawing.shape, 2)
    for epoch in range(2):
        (both,) = batch_positions([alone.data, drawing.data], alone.length, epoch)
        (single,) = batch_positions([alone.data], alone.length, epoch)
        assert (both[0] == single[0]).all()
        assert not (both[1] == both[0]).all()
