"""A worker without a cell of its own trains stages of a running one; who dies meanwhile changes nothing.

With real workers, queue and training.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.config import Config
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell, n_shares
from src.sweep.processes import Process
from src.sweep.queue.queue import ClaimedCell, WorkQueue
from src.sweep.status import status_lines
from src.sweep.workers.control import WorkerControl
from src.sweep.workers.pool import WorkerPool
from src.sweep.workers.worker import work
from src.training.result import StageResult
from src.training.store.store import Store
from tests.cells.running import results
from tests.sweep import fake_engine
from tests.training.cells import tiny

FORK = multiprocessing.get_context("fork")  # a process with everything imported
TIME_LIMIT = 120.0


def until(there: Callable[[], bool]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + TIME_LIMIT
    while not there():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def counts(diary: Path) -> Counter[int]:
    """Number of stages that each process has stored."""
    return Counter(pid for pid, _ in lines(diary))


def lines(diary: Path) -> list[tuple[int, str]]:
    """(Process, what it claimed or stored), in order."""
    words = [line.split() for line in diary.read_text().splitlines()] if diary.exists() else []
    return [(int(pid), key) for pid, key in words]


def note(diary: Path, what: str) -> None:
    with diary.open("a") as file:
        file.write(f"{os.getpid()} {what}\n")


def keep_diaries(folder: Path, dies: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers note in ``claimed`` and ``stored`` what they do, and wait for each other, so that both have a part.

    The first owner of the cell waits for the first stage of its helper, or for its death, and the helper for more stages of
    the owner than a group has. `dies`: who is killed, when it stores its first stage.
    """
    claimed, stored, dead = (folder / name for name in ("claimed", "stored", "dead"))
    claim, put = WorkQueue.claim, Store.put

    def noted_claim(queue: WorkQueue) -> ClaimedCell | None:
        found = claim(queue)
        if found is not None:
            note(claimed, found.cell)
        return found

    def die() -> None:
        dead.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def noted_put(store: Store, key: str, result: StageResult) -> None:
        owner = lines(claimed)[0][0]
        if os.getpid() != owner and dies == "helper":
            die()
        put(store, key, result)
        note(stored, key)
        if os.getpid() == owner:
            until(lambda: dead.exists() or len(counts(stored)) > 1)
            if dies == "owner":
                die()
        elif counts(stored)[os.getpid()] == 1:
            until(lambda: dead.exists() or counts(stored)[owner] > 4)

    monkeypatch.setattr(WorkQueue, "claim", noted_claim)
    monkeypatch.setattr(Store, "put", noted_put)


def queued(config: Config) -> SweepFolder:
    """The sweep with the cell in its queue."""
    folder = SweepFolder(Path(config.multirun), config.sweep)
    with Process(folder, "sweep") as process:
        folder.write_queue(None)
        queue = WorkQueue(folder, process)
        cells = [(resolve(config).hash, Cell(config))]
        queue.enqueue(cells, queue.parameters([cell for _, cell in cells]), alone=True)
        queue.close()
    return folder


def provenance(config: Config) -> list[dict[str, Any]]:
    paths = sorted(resolve(config).folder.glob("*/result.json"))
    return [json.loads(path.read_text())["provenance"] for path in paths]


@pytest.mark.parametrize("dies", [None, "helper", "owner"])
def test_workers_share_a_cell_bit_for_bit_whoever_dies(
    dies: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tiny(f"multirun={tmp_path}/alone", "sweep=s", "seeds=4", "regimes=[sequential,combined,d1_only]")
    shared = dataclasses.replace(alone, multirun=str(tmp_path / "shared"))
    run_cell(resolve(alone))
    folder = queued(shared)
    keep_diaries(tmp_path, dies, monkeypatch)
    workers = [FORK.Process(target=work, args=(folder,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(TIME_LIMIT)
    assert sorted(worker.exitcode or 0 for worker in workers) == ([0, 0] if dies is None else [-signal.SIGKILL, 0])
    stored = lines(tmp_path / "stored")
    assert len({key for _, key in stored}) == len(stored), "no stage is stored twice"
    assert len({pid for pid, _ in stored}) == (1 if dies == "helper" else 2)
    assert len(results(shared)) == 12
    assert results(shared) == results(alone)
    with Process(folder, "status") as process:
        queue = WorkQueue(folder, process)
        assert [trial.state.name for trial in queue.trials()] == ["FAIL"] * (dies == "owner") + ["COMPLETE"]
        queue.close()
    if (
        dies is None
    ):  # what a helper stored before the owner looked counts as reused; tests/training/test_locks.py has the rest
        pairs = zip(provenance(shared), provenance(alone), strict=True)
        assert all(one["reused_samples"] >= other["reused_samples"] for one, other in pairs)


def test_a_helper_is_counted_and_shown_and_a_pruned_or_unshareable_cell_is_one_workers(tmp_path: Path) -> None:
    config = tiny(f"multirun={tmp_path}", "sweep=s", "seeds=2")
    folder = queued(config)
    with Process(folder, "worker") as owner, Process(folder, "worker") as helper:
        queue = WorkQueue(folder, owner)
        claim = queue.claim()
        assert claim is not None
        owner.update(cell=claim.cell)
        assert [one.cell for one in queue.running()] == [claim.cell]
        helper.update(cell=claim.cell, helps=True)
        output = "\n".join(status_lines(folder))
        assert f"{helper.info.id}: 0 cells ended, helps with" in output
        assert f"{owner.info.id}: 0 cells ended, runs" in output
        owner.update(cell=None)
        assert "is dead; the next worker or command requeues the cell" in "\n".join(status_lines(folder))
        queue.close()
    counts = iter([3, 4])
    control = WorkerControl(lambda: False, None, lambda: True, lambda: next(counts))
    assert [control.n_workers(), control.n_workers()] == [3, 3], "looked up once a second"
    assert WorkerControl(lambda: False, lambda _: None, lambda: True, lambda: 5).n_workers() == 1
    assert n_shares(config) == 2 * len(config.regimes)
    for trainer in (
        dataclasses.replace(config.trainer, reuse=False),
        dataclasses.replace(config.trainer, devices=2),
    ):
        assert n_shares(dataclasses.replace(config, trainer=trainer)) == 1


def test_a_worker_and_a_job_that_join_a_cell_in_progress_help_once_and_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(f"multirun={tmp_path}", "sweep=s", "seeds=2")
    folder, asked = queued(config), []

    class NoWorkers:
        n_alive = 0

        def __init__(self, *_: object, **__: object) -> None: ...

        def keep_running(self, n_useful: int, n_ended: int) -> int:
            del n_ended
            asked.append(n_useful)
            return 0

    monkeypatch.setattr("src.sweep.workers.pool.LocalWorkers", NoWorkers)
    with Process(folder, "worker") as owner:
        queue = WorkQueue(folder, owner)
        claim = queue.claim()  # holds the cell's lock
        assert claim is not None
        WorkerPool(folder, 2, engine=fake_engine.__name__).work()
        assert asked == [2 * len(config.regimes)], "nothing waits, but one cell runs"
        worker = FORK.Process(target=work, args=(folder, None, fake_engine.__name__))
        worker.start()
        worker.join(TIME_LIMIT)
        assert worker.exitcode == 0
        assert [trial.state.name for trial in queue.trials()] == ["RUNNING"]
        claim.lock.release()
        queue.close()
    diary = (folder.root / "ran.txt").read_text().splitlines()
    assert [line.split()[0] for line in diary] == ["helped"]
