"""Updates as a CUDA graph: their form with static buffers, the comparison with eager updates, and the ways back to those.

Oracle: the same cell through the plain updates, bit for bit. A CPU has no graphs: here a recording is a function that every
replay calls, so all but `CudaCapture` (tests/training/test_capture.py) runs as on a GPU. What that records is checked where a
CUDA device is visible.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import src.training.feed as feed_module
from src.models.catalog import ARCHITECTURES
from src.optimizers import OPTIMIZERS
from src.regimes.catalog import REGIMES
from src.stopping.catalog import STOPPING_RULES
from src.training.execute import Execution
from src.training.fit import fit
from src.training.graph import choice, updates
from src.training.plan import StagePlan
from src.training.result import StageResult
from src.training.run_files import provenance_of
from tests.training.captures import CalledAgain
from tests.training.cells import CPU, differences, executed, planned, tiny
from tests.training.test_segments import left_and_gone_on

EARLY = ("stopping=early_stopping", "stopping.max_epochs=9", "stopping.patience=1", "optimizer.lr=0.3")
CNN = ("arch=cnn", "arch.widths=[4]", "optimizer.batch_size=7")
KEPT = "regimes=[{sequential: {reset_optimizer: false}}]"
SHORT = ("stopping=budget", "stopping.updates=9")
CELLS = {
    "regression, no momentum": (
        "data=gaussian",
        "arch=linear",
        "loss=mse",
        "optimizer.lr=0.01",
        "optimizer.momentum=0",
    ),
    "linear, whole Fisher matrix": ("data=gaussian", "arch=linear", "loss=mse", "regimes=[{ewc: {full: true}}]"),
    "mlp, one at a time": ("seeds=1", "regimes=[sequential,{replay: {share: 0.5}}]", "optimizer.weight_decay=0.01"),
    "mlp, adam kept, linear schedule": ("optimizer=adam", "optimizer.schedule=linear", "optimizer.warmup=3", KEPT),
    "mlp, the whole data at once": ("optimizer.batch_size=full", "stopping.epochs=9"),
    "mlp, clipped, label smoothing, bf16": (
        "optimizer.clip=0.05",
        "label_smoothing=0.1",
        "trainer.precision=bf16-mixed",
    ),
    "mlp, early stopping": (*EARLY, "seeds=4"),
    "mlp, convergence": ("stopping=convergence", "stopping.max_epochs=9", "stopping.tolerance=1", "optimizer=adam"),
    "mlp, penalties": ("regimes=[l2_sp,l2_init,ewc,lwf]",),
    "mlp, own heads": ("split.classes=[[0,1],[2,3]]", "split.heads=own", "regimes=[lwf]"),
    "mlp, growing head, kept outputs": ("split.classes=[[0,1],[2,3]]", "head=grow", "regimes=[lwf,der]"),
    "cnn, adamw, cosine, augmented": (*CNN, "optimizer=adamw", "optimizer.schedule=cosine", "augment=[flip,crop]"),
    "cnn, bf16, momentum kept": (*CNN, "trainer.precision=bf16-mixed", KEPT),
    "cnn, frozen, clipped": (*CNN, "regimes=[{freeze: {first: 1}}]", "optimizer.clip=0.1"),
    "cnn, early stopping": (*CNN, *EARLY, "regimes=[l2_sp]"),
    "cnn, penalties": (*CNN, "regimes=[l2_init,{ewc: {strength: 3}},lwf]", "optimizer=adam"),
    "cnn, schedules over the run": (
        *CNN,
        "optimizer.span=run",
        "optimizer.schedule=stable_decay",
        "regimes=[sequential]",
    ),
    "cnn, every regime": (*CNN, "seeds=1", f"regimes=[{','.join(REGIMES)}]"),
    "mlp, every regime": ("seeds=1", f"regimes=[{','.join(REGIMES)}]"),
    "mlp, training accuracy": ("stopping=train_accuracy", "stopping.target=0.6", "stopping.max_epochs=6"),
    "mlp, a table": ("data=table", "data.path=TABLE.csv", "data.target=bought", "regimes=[d1_only]"),
    "resnet18, augmented": (*SHORT, "seeds=1", "arch=resnet18", "augment=[flip]"),
    "shufflenet, adam": (*SHORT, "arch=torchvision", "arch.model=shufflenet_v2_x0_5", "optimizer=adam"),
    "timm": (*SHORT, "seeds=1", "arch=timm", "arch.model=resnet10t"),
}


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "_verdicts", {})
    monkeypatch.setattr(updates, "_n_compared", Counter())
    monkeypatch.setattr(choice, "_logged", set())


def both(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], CalledAgain], *overrides: str
) -> tuple[StagePlan, Execution, dict[str, list[str]]]:
    """The plan, its execution through `make()`, and by stage what differs from plain updates."""
    given = " ".join(overrides)
    short = [] if "stopping" in given else ["stopping.epochs=4"]
    config = tiny("seeds=2", "regimes=[combined]", "optimizer.batch_size=8", *short, *overrides)
    plan, plain = executed(config)
    monkeypatch.setattr(choice, "capture_on", lambda _: make())
    _, graphed = executed(config, plan=plan)
    assert not plain.failures
    assert not graphed.failures
    found = {}
    for key in plan.nodes:
        one, other = plain.results[key], graphed.results[key]
        assert one.ledger.capture == ""
        blank = dataclasses.replace(other.ledger, capture="", capture_reason="")
        found[key] = differences(one, dataclasses.replace(other, ledger=blank))
    return plan, graphed, {key: what for key, what in found.items() if what}


def words_of(name: str, folder: Path) -> list[str]:
    """The overrides of a cell; its table, if it has one, is written to the folder. Skips the test without timm, an extra."""
    if "arch=timm" in CELLS[name]:
        pytest.importorskip("timm")
    if any("TABLE.csv" in word for word in CELLS[name]):
        rows = [f"{k % 7},{'abc'[k % 3]},{'yes' if k % 2 else 'no'}" for k in range(120)]
        (folder / "TABLE.csv").write_text("\n".join(["age,plan,bought", *rows]))
    return [word.replace("TABLE.csv", str(folder / "TABLE.csv")) for word in CELLS[name]]


def test_every_variant_is_in_a_cell() -> None:
    words = {"arch=mlp", "optimizer=sgd", "stopping=epochs", *(word for cell in CELLS.values() for word in cell)}
    catalogs = {"arch": ARCHITECTURES, "optimizer": OPTIMIZERS, "stopping": STOPPING_RULES}
    assert {f"{group}={name}" for group, names in catalogs.items() for name in names} <= words


@pytest.mark.parametrize("name", CELLS)
def test_updates_from_static_buffers_are_the_plain_ones_bit_for_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, execution, different = both(monkeypatch, CalledAgain, *words_of(name, tmp_path))
    assert different == {}
    ledgers = [execution.results[key].ledger for key, node in plan.nodes.items() if node.length.updates > 8]
    assert ledgers
    assert {(ledger.capture, ledger.capture_reason, ledger.split) for ledger in ledgers} == {("graph", "", None)}
    if "early" in name:
        assert len({ledger.epochs for ledger in ledgers}) > 1, "models must stop at different epochs"


def test_statistics_of_normalisation_are_static_too(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("regimes=[combined]", "seeds=2", *CNN, "stopping.epochs=6")
    nodes = list(planned(config).nodes.values())
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

    def trained() -> list[StageResult]:
        models = [copy.deepcopy(nn.Sequential(*layers)) for _ in nodes]
        return fit(config, nodes, models, CPU, keep_optimizer=True)

    plain = trained()
    monkeypatch.setattr(choice, "capture_on", lambda _: CalledAgain())
    for one, other in zip(plain, trained(), strict=True):
        assert other.ledger.capture == "graph"
        assert differences(one, dataclasses.replace(other, ledger=one.ledger)) == []


@pytest.mark.parametrize(
    "words", [("optimizer=adam", KEPT), (*CNN, "augment=[flip]", "regimes=[l2_sp]"), (*CNN, *EARLY)]
)
def test_an_interrupted_stage_resumes_to_the_same_bits(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "UPDATES_IN_INDEX_CHUNK", 3)  # so that it is also interrupted within epochs
    monkeypatch.setattr(choice, "capture_on", lambda _: CalledAgain())
    config = tiny("seeds=2", *words, *([] if EARLY[0] in words else ["stopping.epochs=6"]))
    plan, whole = executed(config)
    again, n_left = left_and_gone_on(config, tmp_path, plan, 5)
    assert n_left > 1
    for key in plan.nodes:
        one, other = whole.results[key], again.results[key]
        assert one.ledger.capture == "graph"
        how = {"capture": one.ledger.capture, "capture_reason": one.ledger.capture_reason}  # a piece may be too short
        assert differences(one, dataclasses.replace(other, ledger=dataclasses.replace(other.ledger, **how))) == []


def test_models_that_diverge_are_found_and_do_not_affect_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    _, execution, different = both(monkeypatch, CalledAgain, *CNN, "optimizer.lr=1e9", "seeds=2")
    assert different == {}
    assert {result.ledger.stopped_by for result in execution.results.values()} == {"diverged"}


def test_models_of_a_loop_fork_and_join_where_they_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[CalledAgain] = []

    def make() -> CalledAgain:
        made.append(CalledAgain())
        return made[-1]

    _, _, different = both(monkeypatch, make, *CNN, "seeds=3")
    assert different == {}
    (capture,) = (one for one in made if one.n_recorded)
    assert capture.n_recorded == 2, "one for whole batches, one for the ragged last one of every epoch"
    assert capture.branches.forked == 3 * capture.branches.n_joins > 0
    assert capture.n_released == 1


def no_update() -> None:
    """A replay that trains nothing."""


class Wrong(CalledAgain):
    """A recording that trains in every second replay."""

    def record(self, update: Callable[[], None]) -> Callable[[], None]:
        n_replays = iter(range(10**6))
        return lambda: no_update() if next(n_replays) % 2 else update()


class Stale(CalledAgain):
    """A recording that replays nothing at all."""

    def record(self, update: Callable[[], None]) -> Callable[[], None]:
        return no_update


class Waiting(CalledAgain):
    """A device that sees an update wait; what it recorded would fail, so nothing is."""

    waits_at = "net.py:7"

    def record(self, update: Callable[[], None]) -> Callable[[], None]:
        raise AssertionError("recorded although it waits")


class Failing(CalledAgain):
    def record(self, update: Callable[[], None]) -> Callable[[], None]:
        self.n_recorded += 1
        raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("capture", "reason"),
    [
        (Wrong, "off by"),
        (Stale, "off by"),
        (Waiting, "an update waits for the device, at net.py:7"),
        (Failing, "could not be recorded: RuntimeError: operation not permitted"),
    ],
)
@pytest.mark.parametrize("cell", [("optimizer=adam", "seeds=1"), (*CNN, "stopping.epochs=7")])
def test_a_recording_that_fails_or_replays_wrong_values_leaves_eager_updates(
    capture: type[CalledAgain],
    reason: str,
    cell: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="src.training.graph"):
        plan, execution, different = both(monkeypatch, capture, *cell, "regimes=[sequential]")
    assert different == {}
    for result in execution.results.values():
        assert result.ledger.capture == "eager"
        assert reason in result.ledger.capture_reason
    told = [record.message for record in caplog.records if record.name.startswith("src.training.graph")]
    assert len(told) == len(set(told)) > 0
    provenance = provenance_of(plan.runs[0], execution, set(plan.nodes), "")
    assert provenance["capture"] == "eager"
    assert reason in provenance["capture_reason"]


def test_a_verdict_holds_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Failing] = []

    def make() -> Failing:
        made.append(Failing())
        return made[-1]

    both(monkeypatch, make, "trainer.replicas=1", "seeds=3")
    assert sum(capture.n_recorded for capture in made) == 1


def test_a_group_whose_recording_does_not_fit_the_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(CalledAgain):
        def record(self, update: Callable[[], None]) -> Callable[[], None]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    plan, execution, different = both(monkeypatch, Large, "seeds=2")
    assert different == {}
    for key in plan.nodes:
        ledger = execution.results[key].ledger
        assert (ledger.group, ledger.capture) == (1, "eager")
        assert ledger.split is not None
        assert "memory" in ledger.capture_reason


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("trainer.graph=off",), "trainer.graph=off"),
        (("trainer.precision=64",), "trainer.precision=64"),
        (("online=true",), "online=true"),
        (("trainer.resident_mib=0",), "streamed"),
    ],
)
def test_what_cannot_be_recorded_trains_eagerly_for_a_reason(
    overrides: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, execution, different = both(monkeypatch, CalledAgain, *overrides)
    assert different == {}
    for key in plan.nodes:
        assert execution.results[key].ledger.capture == "eager"
        assert reason in execution.results[key].ledger.capture_reason


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
@pytest.mark.parametrize("name", CELLS)
def test_on_a_gpu_replayed_updates_are_the_eager_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same form of the optimizer without a recording; twice the same has the same bits."""
    config = tiny("seeds=2", "regimes=[combined]", "optimizer.batch_size=8", *words_of(name, tmp_path))
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, name="gpu"))
    plan, once = executed(config)
    _, twice = executed(config, plan=plan)
    monkeypatch.setattr(choice, "capture_on", lambda _: Failing())
    monkeypatch.setattr(updates, "_verdicts", {})
    _, eager = executed(config, plan=plan)
    for key, node in plan.nodes.items():
        assert differences(once.results[key], twice.results[key]) == []
        if node.length.updates > 8:
            assert once.results[key].ledger.capture == "graph", once.results[key].ledger.capture_reason
        for weight, tensor in eager.results[key].weights.items():
            torch.testing.assert_close(once.results[key].weights[weight], tensor, rtol=1e-3, atol=1e-4)
