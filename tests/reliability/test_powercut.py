"""What was written durably is on disk after a power cut; the campaign `powercut` cuts whole sweeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.reliability.powercut import CannotCut, Disk, disk
from src.io import read_json, write_atomically, write_files
from src.tracking.outbox import Outbox
from src.training.store.store import SYNC_SECONDS, Store
from tests.training.test_store import progress, result


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system that can lose what is not synced."""
    try:
        with disk(tmp_path, mib=16) as made:
            yield made
    except CannotCut as reason:
        pytest.skip(str(reason))


def cut(disk: Disk) -> None:
    disk.cut()
    disk.stop()
    disk.start()


def test_a_run_is_complete_in_folders_that_were_new(small_disk: Disk) -> None:
    sweep = small_disk.mount / "multirun" / "s"
    run, outbox = sweep / "cells" / "c" / "run", Outbox(sweep)
    with suppress(KeyboardInterrupt), outbox.transaction(run):
        write_files(run, {"config.yaml": "seed: 1\n", "result.json": '{"run": 1}'})
        raise KeyboardInterrupt  # nothing else is written, which could sync these files too
    cut(small_disk)
    assert read_json(run / "result.json") == {"run": 1}
    assert (run / "config.yaml").read_text() == "seed: 1\n"
    assert [read_json(entry) for entry in outbox.pending()] == [{"schema": 1, "folder": "cells/c/run"}]


@pytest.mark.parametrize(("arguments", "is_kept"), [({}, True), ({"named": False}, False), ({"durable": False}, False)])
def test_a_durable_file_is_found_under_its_name(small_disk: Disk, arguments: dict[str, bool], is_kept: bool) -> None:
    path = small_disk.mount / "queue.json"
    write_atomically(path, '{"id": 1}', **arguments)
    cut(small_disk)
    assert path.exists() == is_kept, "the cut loses exactly what is not synced"


@pytest.mark.parametrize("seconds", [0.5, 1.5])
def test_a_stage_that_took_seconds_is_stored_before_its_resume_point_is_deleted(
    small_disk: Disk, seconds: float
) -> None:
    store, point, done = Store(small_disk.mount / ".stages"), progress(), result()
    store.put_resume_point("abcd", dataclasses.replace(point, seconds=seconds))
    store.put("abcd", dataclasses.replace(done, ledger=dataclasses.replace(done.ledger, seconds=seconds)))
    cut(small_disk)
    assert (store.get("abcd") is not None) == (seconds > SYNC_SECONDS)
