"""Resumed = uninterrupted, bit for bit: from the end of a shorter stage and from a checkpoint within a stage.

Weights, optimizer state, curves and ledger are compared, for both engines, all optimizers, ragged last batches, dropout,
batch normalisation, penalties, every stopping rule, and models of a group that resume from different points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

import src.training.execute as execute_module
import src.training.starting as starting_module
from src.config import Config
from src.models.structure import has_dropout
from src.training.devices import device_of
from src.training.execute import Execution, execute
from src.training.plan import StagePlan
from src.training.store.store import Store
from tests.training.cells import OnStage, differences, executed, planned, tiny

SMALL = ("optimizer.batch_size=7", "arch.widths=[5]")
KEPT = "regimes=[{sequential: {reset_optimizer: false}}]"
EARLY = ("stopping=early_stopping", "stopping.max_epochs=10", "stopping.patience=1", "optimizer.lr=0.5")


def apart(plan: StagePlan, a: Execution, b: Execution) -> dict[str, list[str]]:
    """Differences between two results by stage; no stage may be missing or failed."""
    assert a.failures == b.failures == {}
    assert a.results.keys() == b.results.keys() == plan.nodes.keys()
    found = {key: differences(a.results[key], b.results[key]) for key in plan.nodes}
    return {key: what for key, what in found.items() if what}


def with_epochs(config: Config, epochs: int) -> Config:
    return dataclasses.replace(config, stopping=dataclasses.replace(config.stopping, epochs=epochs))  # type: ignore[call-arg]


def with_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every network batch normalisation over its 5 hidden units and dropout of one third."""
    build = starting_module.build_model

    def built(*args: object, **options: object) -> nn.Module:
        model = build(*args, **options)  # type: ignore[arg-type]
        assert isinstance(model, nn.Sequential)
        for name, layer in list(model.named_children()):
            if isinstance(layer, nn.ReLU):
                setattr(model, name, nn.Sequential(layer, nn.BatchNorm1d(5), nn.Dropout(0.3)))
        assert has_dropout(model)
        return model

    monkeypatch.setattr(starting_module, "build_model", built)


# ------------------------------------------------------------------------------------------------ segments

LONGER = {
    "sgd": SMALL,
    "adam": (*SMALL, "optimizer=adam"),
    "adamw, momentum kept": (*SMALL, "optimizer=adamw", KEPT),
    "no momentum, weight decay": (*SMALL, "optimizer.momentum=0", "optimizer.weight_decay=0.01"),
    "cnn": ("arch=cnn", "arch.widths=[3]", "optimizer.batch_size=32"),
    "full batches": ("optimizer.batch_size=full",),
    "double precision": ("arch=linear", "trainer.precision=64"),
    "penalties": (*SMALL, "regimes=[{ewc: {strength: 3}},lwf,l2_sp]"),
    "replay, chunks, freeze": (*SMALL, "regimes=[{replay: {share: 0.3}},chunked,freeze]"),
    "streamed": (*SMALL, "trainer.resident_mib=0"),
    "augmented": (*SMALL, "augment=[flip,crop]"),
    "few curve points": (*SMALL, "trainer.curve_points=2"),
}


@pytest.mark.parametrize("name", LONGER)
def test_a_longer_stage_resumes_from_a_shorter_one(name: str, tmp_path: Path) -> None:
    short = tiny("seeds=2", *LONGER[name], "stopping.epochs=2")
    config = with_epochs(short, 4)
    plan, alone = executed(config)
    before, _ = executed(short, tmp_path)
    _, resumed = executed(config, tmp_path, plan)
    assert apart(plan, alone, resumed) == {}
    firsts = {key for key, node in plan.nodes.items() if node.level == 0}
    assert {node.prefix_key for node in before.nodes.values()} >= {plan.nodes[key].prefix_key for key in firsts}
    assert {key for key, n in resumed.reused.items() if n} == firsts, "later stages have a different parent"
    for key in firsts:
        assert resumed.reused[key] == 2 * plan.nodes[key].length.n_draws


def test_dropout_and_running_statistics_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_state(monkeypatch)
    short = tiny("seeds=2", *SMALL, "regimes=[combined]")
    config = with_epochs(short, 4)
    plan, alone = executed(config)
    executed(short, tmp_path)
    _, resumed = executed(config, tmp_path, plan)
    assert resumed.reused
    assert apart(plan, alone, resumed) == {}


def test_models_of_a_group_resume_from_different_points(tmp_path: Path) -> None:
    """Seeds 0 and 1 resume after 2 epochs, seed 2 after 4, seed 3 starts fresh: three groups with the results of one."""
    base = tiny(*SMALL, "optimizer=adam", "regimes=[combined]", "seeds=5", "stopping.epochs=6")
    plan, alone = executed(base)
    executed(with_epochs(dataclasses.replace(base, seeds=(0, 1, 2)), 2), tmp_path)
    executed(with_epochs(dataclasses.replace(base, seeds=(2,)), 4), tmp_path)
    _, resumed = executed(base, tmp_path, plan)
    assert apart(plan, alone, resumed) == {}
    by_seed = {plan.nodes[key].seed: (n, resumed.results[key].ledger.group) for key, n in resumed.reused.items()}
    assert by_seed == {0: (120, 2), 1: (120, 2), 2: (240, 1)}
    assert resumed.results[plan.runs[4].stages[0]].ledger.group == 2


def test_regimes_of_a_cell_resume_from_each_other(tmp_path: Path) -> None:
    """With a budget of updates, d1_only gets the total of sequential, so sequential's first stage is a prefix of its stage."""
    budget = ("stopping=budget", "stopping.updates=24", "stopping.match=updates")
    config = tiny("seeds=2", *SMALL, *budget, "split.sizes=[21,21]", "split.size=null", "regimes=[d1_only,sequential]")
    plan, execution = executed(config, tmp_path)
    short, long = (plan.nodes[run.stages[0]] for run in (plan.runs[2], plan.runs[0]))
    assert (short.prefix_key, short.length.updates, long.length.updates) == (long.prefix_key, 12, 24)
    assert execution.reused == {run.stages[0]: 12 * 7 for run in plan.runs[:2]}
    for run in plan.runs[:2]:
        alone = dataclasses.replace(config, regimes=config.regimes[:1], seeds=(run.seed,))
        _, other = executed(alone)
        assert differences(other.results[run.stages[0]], execution.results[run.stages[0]]) == []


@pytest.mark.parametrize(
    ("shorter", "longer"),
    [
        (
            ("stopping=budget", "stopping.updates=10", "stopping.match=updates"),
            ("stopping.epochs=4",),
        ),  # ends within an epoch
        (
            ("stopping=budget", "stopping.samples=80", "stopping.match=samples"),
            ("stopping.epochs=4",),
        ),  # an incomplete batch
        (("optimizer.schedule=cosine",), ("optimizer.schedule=cosine", "stopping.epochs=4")),
        (
            ("trainer.curve_points=3", "stopping.epochs=4"),
            ("trainer.curve_points=3", "stopping.epochs=7"),
        ),  # different points of the curves
        (
            ("optimizer.batch_size=64", "stopping=budget", "stopping.samples=90", "stopping.match=samples"),
            ("optimizer.batch_size=64", "stopping.epochs=4"),
        ),  # a full batch has no order, a part of it has
    ],
)
def test_a_stage_does_not_resume_from_a_stage_that_is_no_prefix(
    shorter: Sequence[str], longer: Sequence[str], tmp_path: Path
) -> None:
    executed(tiny("regimes=[combined]", "seeds=1", *SMALL, *shorter), tmp_path)
    plan, resumed = executed(tiny("regimes=[combined]", "seeds=1", *SMALL, *longer), tmp_path)
    _, alone = executed(tiny("regimes=[combined]", "seeds=1", *SMALL, *longer), plan=plan)
    assert not resumed.reused
    assert apart(plan, alone, resumed) == {}


# ------------------------------------------------------------------------------------------------ interrupted stages

LEFT = {
    "epochs": (*SMALL, "stopping.epochs=3"),
    "kept adam": (*SMALL, KEPT, "optimizer=adam", "stopping.epochs=3"),
    "cosine, adamw": (*SMALL, "optimizer.schedule=cosine", "optimizer=adamw", "stopping.epochs=3"),
    "budget": (*SMALL, "stopping=budget", "stopping.updates=31", "stopping.match=updates"),
    "early stopping": (*SMALL, *EARLY),
    "early stopping, cnn": ("arch=cnn", "arch.widths=[3]", *EARLY),
    "convergence": (*SMALL, "stopping=convergence", "stopping.max_epochs=8", "stopping.tolerance=1.2"),
    "penalty": (*SMALL, "regimes=[{ewc: {strength: 3}}]", "stopping.epochs=3"),
    "cnn, adam": ("arch=cnn", "arch.widths=[3]", "optimizer=adam", "optimizer.batch_size=7", "stopping.epochs=2"),
    "streamed": (*SMALL, "trainer.resident_mib=0", "stopping.epochs=3"),
}


class LeftError(BaseException):
    """Exception that ends the execution."""


def left_every(n: int) -> Callable[[], None]:
    """A hook that raises at every n-th call."""
    calls = [0]

    def hook() -> None:
        calls[0] += 1
        if calls[0] % n == 0:
            raise LeftError

    return hook


def left_and_gone_on(config: Config, root: Path, plan: StagePlan, every: int) -> tuple[Execution, int]:
    """Interrupt and restart the execution until it finishes; return the number of interruptions."""
    hook, place = left_every(every), device_of(config.trainer)
    for n_left in range(10_000):
        try:
            return execute(config, plan, Store(root), place, OnStage(hook)), n_left
        except LeftError:
            pass
    raise AssertionError("it never ends")


@pytest.mark.parametrize("name", LEFT)
def test_an_interrupted_stage_resumes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import src.training.fit as fit_module

    monkeypatch.setattr(fit_module, "UPDATES_AT_ONCE", 3)  # so that it is also interrupted within epochs
    config = tiny("seeds=3", *LEFT[name])
    plan, whole = executed(config)
    again, n_left = left_and_gone_on(config, tmp_path, plan, 6)
    assert n_left > 1
    assert apart(plan, whole, again) == {}
    assert not list(tmp_path.rglob("*.part.safetensors")), "no longer needed"


def test_dropout_and_running_statistics_resume_within_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import src.training.fit as fit_module

    with_state(monkeypatch)
    monkeypatch.setattr(fit_module, "UPDATES_AT_ONCE", 2)
    config = tiny("seeds=2", *SMALL, "regimes=[combined]")
    plan, whole = executed(config)
    again, _ = left_and_gone_on(config, tmp_path, plan, 3)
    assert apart(plan, whole, again) == {}


def test_a_stage_that_ended_before_its_group_was_interrupted_is_not_trained_again(tmp_path: Path) -> None:
    config = tiny("seeds=5", "regimes=[combined]", *SMALL, *EARLY)
    plan, whole = executed(config)
    epochs = sorted(result.ledger.epochs for result in whole.results.values())
    assert epochs[0] < epochs[-1] - 1
    calls = 0

    def hook() -> None:  # once before the group, then after every epoch: it has 9 updates, one chunk
        nonlocal calls
        calls += 1
        if calls == 2 + epochs[0]:
            raise LeftError

    with pytest.raises(LeftError):
        execute(config, plan, Store(tmp_path), device_of(config.trainer), OnStage(hook))
    ended = {key for key, result in whole.results.items() if Store(tmp_path).get(key) is not None}
    assert ended
    assert {key for key in plan.nodes if Store(tmp_path).resume_point(key) is not None} == plan.nodes.keys() - ended
    _, again = executed(config, tmp_path, plan)
    assert again.trained == plan.nodes.keys() - ended
    assert apart(plan, whole, again) == {}


def test_a_stage_resumes_from_the_most_advanced_point(tmp_path: Path) -> None:
    """A stage is interrupted after 3 epochs, itself resumed from 2; meanwhile a stage of 4 epochs was trained."""
    config = tiny("seeds=1", "regimes=[combined]", *SMALL, "stopping.epochs=6")
    plan, whole = executed(config)
    executed(with_epochs(config, 2), tmp_path)
    with pytest.raises(LeftError):
        execute(config, plan, Store(tmp_path), device_of(config.trainer), OnStage(left_every(2)))
    (key,) = plan.nodes
    part = Store(tmp_path).resume_point(key)
    assert part is not None
    assert (part.updates, part.reused) == (3 * 9, 120)
    other, again = executed(with_epochs(config, 4), tmp_path)
    assert again.reused == {next(iter(other.nodes)): 120}
    _, last = executed(config, tmp_path, plan)
    assert last.reused == {key: 240}
    assert apart(plan, whole, last) == {}


def test_a_stage_is_checkpointed_periodically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints follow the clock without a stop request; none are written if the user disables them."""
    saved: list[int] = []
    whole = Store.put_resume_point
    monkeypatch.setattr(Store, "put_resume_point", lambda self, key, p: (saved.append(p.updates), whole(self, key, p)))
    config = tiny("seeds=1", "regimes=[combined]", *SMALL, "stopping.epochs=3", "trainer.checkpoint_seconds=0")
    executed(config, tmp_path / "never")
    assert saved == []
    often = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, checkpoint_seconds=1e-9))
    executed(often, tmp_path / "often")
    assert saved == [9, 18]


def test_without_checkpoints_no_resume_file_is_written(tmp_path: Path) -> None:
    config = tiny("seeds=1", "regimes=[combined]", "trainer.checkpoint_seconds=0")
    execute(config, planned(config), Store(tmp_path), device_of(config.trainer), OnStage(left_every(2)))
    assert not list(tmp_path.rglob("*.part.safetensors"))


def test_a_group_that_is_split_after_a_failure_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("seeds=3", "regimes=[combined]", *SMALL, "stopping.epochs=4")
    plan, whole = executed(config)
    executed(with_epochs(config, 2), tmp_path)
    fit = execute_module.fit

    def crowded(config: Config, nodes: Sequence[object], *rest: object, **options: object) -> object:
        if len(nodes) > 1:
            raise torch.OutOfMemoryError("planted")
        return fit(config, nodes, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(execute_module, "fit", crowded)
    _, again = executed(config, tmp_path, plan)
    assert set(again.reused.values()) == {120}
    assert apart(plan, whole, again) == {}
