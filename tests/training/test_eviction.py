"""Eviction from the stage store: its order, and entries that are never evicted.

Properties: over the limit, the least recently used entry is evicted first, resume files before results; entries that a live
process has used are never evicted; an evicted stage is trained again to the same bits; without a limit nothing is evicted.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from src.training.devices import device_of
from src.training.execute import execute
from src.training.store.store import Store
from tests.training.cells import differences, executed, tiny
from tests.training.test_store import progress, result

HOUR = 3600.0


def used(path: Path, hours_ago: float) -> None:
    then = time.time() - hours_ago * HOUR
    os.utime(path, (then, then))


def filled(root: Path) -> Store:
    """Four results and one resume file, used 1 to 5 hours ago, the resume file last."""
    store = Store(root)
    for number in range(4):
        store.put(f"a{number}", result())
        used(store.path(f"a{number}"), 5 - number)
    store.put_prefix("line", "a0", progress())
    used(store.prefix_path("line", 4), 1)
    return store


def names(root: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in root.rglob("*.safetensors")}


def gib(root: Path) -> float:
    return sum(path.stat().st_size for path in root.rglob("*.safetensors")) / 2**30


def test_the_least_recently_used_entry_is_evicted_first_and_resume_files_before_results(tmp_path: Path) -> None:
    filled(tmp_path)
    everything = gib(tmp_path)
    one = result_gib(tmp_path)
    Store(tmp_path, everything + 2 * one).put("b0", result())
    assert names(tmp_path) == {"a0", "a1", "a2", "a3", "line-4", "b0"}, "the store is below its limit"
    store = Store(tmp_path, everything + one)
    store.put("c0", result())
    assert names(tmp_path) == {"a0", "a1", "a2", "a3", "b0", "c0"}
    store = Store(tmp_path, gib(tmp_path) - one / 2)
    assert store.get("a0") is not None
    store.put("d0", result())
    assert names(tmp_path) == {"a0", "a3", "b0", "c0", "d0"}, "a0 was used most recently"


def result_gib(root: Path) -> float:
    return Store(root).path("a0").stat().st_size / 2**30


def test_without_a_limit_nothing_is_evicted(tmp_path: Path) -> None:
    filled(tmp_path)
    Store(tmp_path, 0).put("b0", result())
    assert names(tmp_path) == {"a0", "a1", "a2", "a3", "line-4", "b0"}


def live(root: Path, ready: object, done: object) -> None:
    store = Store(root, 1)
    assert store.get("a1") is not None
    ready.set()  # type: ignore[attr-defined]
    done.wait(60)  # type: ignore[attr-defined]


def test_entries_of_a_live_process_are_never_evicted(tmp_path: Path) -> None:
    filled(tmp_path)
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Event(), fork.Event()
    other = fork.Process(target=live, args=(tmp_path, ready, done), daemon=True)
    other.start()
    assert ready.wait(60)
    with pytest.warns(UserWarning, match=r"trainer\.store_gib=.* in use by live processes"):
        Store(tmp_path, 1e-9).put("b0", result())
    assert names(tmp_path) == {"a1", "b0"}
    done.set()
    other.join(60)
    used(Store(tmp_path).path("a1"), 1)
    used(Store(tmp_path).path("b0"), 2)
    with pytest.warns(UserWarning, match="in use"):
        Store(tmp_path, 1e-9).put("c0", result())
    assert names(tmp_path) == {"c0"}
    assert len(list((tmp_path / "live").glob("*-*.lock"))) <= 2, "the locks of dead processes are removed"


def test_an_old_partial_file_is_removed(tmp_path: Path) -> None:
    store = filled(tmp_path)
    half = store.path("a0").with_name(".a0.safetensors.1.abc.tmp")
    half.write_bytes(b"x" * 100)
    used(half, 9)
    with pytest.warns(UserWarning, match="in use"):
        Store(tmp_path, 1e-9).put("b0", result())
    assert not half.exists()


def test_an_evicted_stage_is_trained_again(tmp_path: Path) -> None:
    config = tiny("seeds=2", "regimes=[sequential,d1_only]")
    plan, first = executed(config, tmp_path)
    for path in tmp_path.rglob("*.safetensors"):
        used(path, 1)
    lost = Store(tmp_path).path(plan.runs[0].stages[0])
    lost.unlink()
    with pytest.warns(UserWarning, match="in use"):
        again = execute(config, plan, Store(tmp_path, 1e-9), device_of(config.trainer))
    assert again.trained == {plan.runs[0].stages[0]}, "what the cell found when it began is in use and not evicted"
    for key in plan.nodes:
        assert differences(first.results[key], again.results[key]) == []
