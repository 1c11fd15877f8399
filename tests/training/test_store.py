"""The stage store: loaded = trained, bit for bit, and every damage is detected.

Properties: a round trip keeps every bit and every field; a flipped byte anywhere in the file, a truncated or empty file is
detected, and the stage counts as absent; writing leaves the old file or the new one, never a part.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from src.io import write_atomically
from src.stopping.rule import Best
from src.training.result import Curves, Ledger, ResumePoint, StageResult
from src.training.store.store import Store, weights_digest
from tests.training.cells import differences, executed, same_bits, tiny


def result(*, optimizer: bool = True) -> StageResult:
    """A stage with every kind of tensor: empty, of no dimension, whole numbers, not contiguous, NaN."""
    weights = {
        "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
        "a.count": torch.tensor(7),
        "a.none": torch.empty(0, 3),
        "a.half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
    }
    state = {"step/a.weight": torch.tensor(3.0), "exp_avg/a.weight": torch.ones(3, 2, dtype=torch.float64)}
    nan = np.array([[0.5, np.nan], [1.0, 0.0]])
    curves = Curves(np.array([2, 4]), np.array([0.1, np.nan]), (nan, nan + 1), (nan * 2, nan * 3))
    ledger = Ledger(
        updates=4,
        samples=30,
        epochs=2,
        stopped_by="patience",
        converged=None,
        best_epoch=1,
        seconds=0.25,
        group=3,
        engine="loop",
        device="cpu",
        extra_passes=1.5,
    )
    return StageResult(weights, state if optimizer else None, curves, ledger)


def progress() -> ResumePoint:
    """A stage interrupted within an epoch, with its complete resume state."""
    whole = result()
    assert whole.optimizer is not None
    return ResumePoint(
        updates=4,
        reused=30,
        seconds=0.5,
        device="cpu",
        weights=whole.weights,
        optimizer=whole.optimizer,
        losses=torch.tensor([1.0, float("nan"), 0.1, -0.0]),
        curves=whole.curves,
        noise=torch.arange(7, dtype=torch.uint8),
        best=Best(0.1, 1, {name: tensor.clone() for name, tensor in whole.weights.items()}),
    )


@pytest.mark.parametrize("optimizer", [True, False])
def test_a_round_trip_keeps_everything(tmp_path: Path, optimizer: bool) -> None:
    store, kept = Store(tmp_path), result(optimizer=optimizer)
    store.put("abcd", kept)
    back = store.get("abcd")
    assert back is not None
    assert differences(kept, back) == []
    assert (back.optimizer is None) == (not optimizer)
    assert back.ledger == kept.ledger
    assert store.get("abce") is None


def test_a_round_trip_keeps_the_whole_resume_state(tmp_path: Path) -> None:
    store, kept = Store(tmp_path), progress()
    bare = dataclasses.replace(kept, noise=None, best=None, optimizer={})
    for given in (kept, bare, dataclasses.replace(kept, best=Best(float("inf"), 2, result().weights))):
        store.put_resume_point("abcd", given)
        back = store.resume_point("abcd")
        assert back is not None
        for name in ("updates", "reused", "seconds", "device"):
            assert getattr(back, name) == getattr(given, name)
        assert (back.best is None, back.noise is None) == (given.best is None, given.noise is None)
        pairs = [(back.weights, given.weights), (back.optimizer, given.optimizer)]
        if back.best is not None and given.best is not None:
            assert back.best[:2] == given.best[:2]
            pairs.append((back.best.weights, given.best.weights))
        for mine, other in pairs:
            assert mine.keys() == other.keys()
            assert all(same_bits(mine[name], other[name]) for name in other)
        assert same_bits(back.losses, given.losses)
        assert back.noise is None or given.noise is None or same_bits(back.noise, given.noise)
        assert np.array_equal(back.curves.steps, given.curves.steps)


def test_resume_points_of_a_prefix_are_found_most_advanced_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for updates in (9, 100, 20):
        store.put_prefix("abcd", "key", dataclasses.replace(progress(), updates=updates))
    store.put_prefix("abcde", "key", progress())
    store.put_resume_point("abcd", progress())
    assert store.prefix_lengths("abcd") == [100, 20, 9]
    assert store.prefix_lengths("none") == []
    assert store.prefix("abcd", 20) is None, "the weights are missing"
    store.put("key", result())
    end = store.prefix("abcd", 20)
    assert end is not None
    assert end.updates == 20
    assert all(same_bits(end.weights[name], tensor) for name, tensor in result().weights.items())
    store.put("key", dataclasses.replace(result(), weights={"other": torch.ones(1)}))
    assert store.prefix("abcd", 20) is None, "the weights differ"
    store.put("abcd", result())
    assert store.resume_point("abcd") is None, "a finished stage has no resume point"
    assert store.prefix_lengths("abcd") == [100, 20, 9]


def test_a_stage_without_the_required_optimizer_state_counts_as_absent(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("without", result(optimizer=False))
    store.put("with", result())
    assert store.get("without", need_optimizer=True) is None
    assert store.get("with", need_optimizer=True) is not None


def with_end(store: Store) -> None:
    store.put("abcd", result())
    store.put_prefix("line", "abcd", progress())


KINDS: dict[str, tuple[Callable[[Store], Path], Callable[[Store], None], Callable[[Store], object]]] = {
    "result": (lambda s: s.path("abcd"), lambda s: s.put("abcd", result()), lambda s: s.get("abcd")),
    "part": (
        lambda s: s.resume_path("abcd"),
        lambda s: s.put_resume_point("abcd", progress()),
        lambda s: s.resume_point("abcd"),
    ),
    "end": (lambda s: s.prefix_path("line", 4), with_end, lambda s: s.prefix("line", 4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_anywhere_is_detected(kind: str, tmp_path: Path) -> None:
    path_of, put, get = KINDS[kind]
    store = Store(tmp_path)
    put(store)
    path = path_of(store)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in range(len(whole)):  # every byte, all of its bits or one of them
        flipped = bytearray(whole)
        flipped[position] ^= 0xFF if position % 2 else 1 << int(rng.integers(8))
        path.write_bytes(bytes(flipped))
        with pytest.warns(UserWarning, match="damaged"):
            assert get(store) is None, f"byte {position} of {len(whole)}"
    path.write_bytes(whole)
    assert get(store) is not None


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_stage_with_a_damaged_prefix_restarts(share: float, tmp_path: Path) -> None:
    short, long = (tiny("seeds=1", "regimes=[combined]", f"stopping.epochs={epochs}") for epochs in (2, 3))
    plan, alone = executed(long)
    (line,) = (node.prefix_key for node in plan.nodes.values())
    assert line is not None
    executed(short, tmp_path)
    path = Store(tmp_path).prefix_path(line, 2)
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 16
    path.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="damaged"):
        _, again = executed(long, tmp_path, plan)
    assert again.reused == {}
    assert all(differences(again.results[key], alone.results[key]) == [] for key in plan.nodes)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99])
def test_a_truncated_file_is_detected(tmp_path: Path, share: float) -> None:
    store = Store(tmp_path)
    store.put("abcd", result())
    path = store.path("abcd")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.warns(UserWarning, match="damaged"):
        assert store.get("abcd") is None


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, b"old")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"], "no temporary file is left"


def test_a_digest_covers_names_types_shapes_and_bits() -> None:
    one = {"w": torch.tensor([[1.0, 0.0]])}
    digest = weights_digest(one)
    assert weights_digest({"w": torch.tensor([[1.0, 0.0]])}) == digest
    others = [
        {"v": one["w"]},
        {"w": one["w"].double()},
        {"w": one["w"].T},
        {"w": torch.tensor([[1.0, -0.0]])},
        {**one, "b": torch.empty(0)},
    ]
    assert len({digest, *(weights_digest(other) for other in others)}) == 6


def test_a_loaded_stage_equals_the_trained_one(tmp_path: Path) -> None:
    config = tiny("seeds=2", "regimes=[{sequential: {reset_optimizer: false}},combined]", "optimizer=adam")
    plan, trained = executed(config, tmp_path)
    _, loaded = executed(config, tmp_path, plan)
    assert trained.trained == set(plan.nodes)
    assert loaded.trained == set()
    for key in plan.nodes:
        assert differences(trained.results[key], loaded.results[key]) == []


def test_later_stages_are_the_same_after_a_loaded_one(tmp_path: Path) -> None:
    config = tiny("seeds=2", "regimes=[{sequential: {reset_optimizer: false}},{replay: {share: 0.2}}]")
    plan, trained = executed(config, tmp_path)
    store = Store(tmp_path)
    lost = {key for key, node in plan.nodes.items() if node.level}
    for key in lost:
        store.path(key).unlink()
    _, again = executed(config, tmp_path, plan)
    assert again.trained == lost
    for key in plan.nodes:
        assert differences(trained.results[key], again.results[key]) == []


def test_a_damaged_stage_is_trained_again_to_the_same_bits(tmp_path: Path) -> None:
    config = tiny("seeds=2", "regimes=[sequential]")
    plan, first = executed(config, tmp_path)
    store = Store(tmp_path)
    hurt = next(iter(plan.nodes))
    path = store.path(hurt)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="damaged"):
        _, again = executed(config, tmp_path, plan)
    assert again.trained == {hurt}
    assert differences(first.results[hurt], again.results[hurt]) == []
    assert store.get(hurt) is not None, "the stage is stored again"


def test_a_stage_of_another_kind_of_device_is_not_loaded(tmp_path: Path) -> None:
    config = tiny("seeds=1", "regimes=[combined]")
    plan, first = executed(config, tmp_path)
    (key,) = plan.nodes
    kept = first.results[key]
    elsewhere = Ledger(**{**dataclasses.asdict(kept.ledger), "device": "cuda"})
    Store(tmp_path).put(key, StageResult(kept.weights, kept.optimizer, kept.curves, elsewhere))
    _, again = executed(config, tmp_path, plan)
    assert again.trained == {key}
