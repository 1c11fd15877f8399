"""The queue assigns every cell to exactly one live worker, in a journal and on PostgreSQL, despite dying workers."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import secrets
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from src.config import Config, compose
from src.errors import ConfigError
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell
from src.sweep.processes import Process, Role, is_locked
from src.sweep.queue import storage
from src.sweep.queue.queue import MAX_ATTEMPTS, WorkQueue

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path, f"s{secrets.token_hex(4)}")  # a unique name, because the tests share one PostgreSQL


@pytest.fixture(scope="module")
def base() -> Config:
    return compose(["seeds=2"])


def cells(base: Config, n_cells: int, **changes: object) -> list[tuple[str, Cell]]:
    """Cells that differ in their ratio, with invented hashes."""
    found = []
    for index in range(n_cells):
        split = dataclasses.replace(base.split, ratio=(index + 1) / 10)
        config = dataclasses.replace(base, split=split, **changes)  # type: ignore[arg-type]
        found.append((f"cell{index:04d}", Cell(config, (f"split.ratio={split.ratio}",))))
    return found


@contextmanager
def opened(folder: SweepFolder, storage: str | None, role: Role = "worker") -> Iterator[WorkQueue]:
    with Process(folder, role) as process:
        folder.write_queue(storage)
        queue = WorkQueue(folder, process)
        try:
            yield queue
        finally:
            queue.close()


def fill(queue: WorkQueue, given: list[tuple[str, Cell]], *, alone: bool = True) -> None:
    queue.enqueue(given, queue.parameters([cell for _, cell in given]), alone=alone)


def journal(folder: SweepFolder) -> JournalStorage:
    """The study's file, as Optuna's tools open it."""
    return JournalStorage(JournalFileBackend(str(folder.root / "study.journal")))


def drain(queue: WorkQueue) -> list[str]:
    claimed = []
    while (claim := queue.claim()) is not None:
        claimed.append(claim.cell)
        assert queue.complete(claim, 0.0)
    return claimed


def _work(folder: SweepFolder, storage: str | None, diary: Path) -> None:
    with opened(folder, storage) as queue:
        diary.write_text("\n".join(drain(queue)))


def _die_running(folder: SweepFolder, storage: str | None) -> None:
    with opened(folder, storage) as queue:
        assert queue.claim() is not None
        os.kill(os.getpid(), signal.SIGKILL)


def die_running(folder: SweepFolder, storage: str | None) -> None:
    """A worker claims a cell and is killed."""
    process = FORK.Process(target=_die_running, args=(folder, storage))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def test_four_processes_claim_every_cell_once(folder: SweepFolder, storage: str | None, base: Config) -> None:
    given = cells(base, 80)
    with opened(folder, storage) as queue:
        fill(queue, given)
    diaries = [folder.root / f"diary{k}" for k in range(4)]
    workers = [FORK.Process(target=_work, args=(folder, storage, diary)) for diary in diaries]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    claimed = Counter(name for diary in diaries for name in diary.read_text().split())
    assert claimed == Counter({name: 1 for name, _ in given})


def test_optunas_own_tools_see_the_axes_and_the_values(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as queue:
        fill(queue, cells(base, 3))
        claim = queue.claim()
        assert claim is not None
        queue.complete(claim, 0.25)
    study = optuna.load_study(study_name=folder.sweep, storage=journal(folder))
    table = study.trials_dataframe()
    assert list(table["params_ratio"]) == [0.1, 0.2, 0.3]
    assert list(table["state"]) == ["COMPLETE", "WAITING", "WAITING"]
    assert {axes["data"] for axes in table["user_attrs_axes"]} == {"digits"}
    assert study.best_value == 0.25


def test_an_empty_queue_has_no_claim_and_stays_empty(folder: SweepFolder, storage: str | None, base: Config) -> None:
    with opened(folder, storage) as queue:
        assert queue.claim() is None
        fill(queue, cells(base, 2))
        assert drain(queue) == ["cell0000", "cell0001"]
        assert queue.claim() is None
        assert len(queue.trials()) == 2


def test_the_same_cells_from_two_commands_are_queued_once(
    folder: SweepFolder, storage: str | None, base: Config
) -> None:
    given = cells(base, 5)
    with opened(folder, storage) as one, opened(folder, storage) as two:
        fill(one, given, alone=False)
        assert one.claim() is not None
        fill(two, given, alone=False)
        assert len(two.trials()) == 5


def test_more_seeds_for_a_waiting_cell_widen_it(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as queue:
        fill(queue, cells(base, 1))
        fill(queue, cells(base, 1, seeds=(1, 5)), alone=False)
        assert len(queue.trials()) == 1
        assert folder.read_cell("cell0000").seeds == (0, 1, 5)


def test_more_seeds_for_a_running_cell_wait_until_it_ends(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as queue:
        fill(queue, cells(base, 1))
        claim = queue.claim()
        fill(queue, cells(base, 1, seeds=(0, 1, 2)), alone=False)
        assert claim is not None
        assert queue.claim() is None, "one cell has one worker"
        queue.complete(claim, 0.0)
        again = queue.claim()
        assert again is not None
        assert again.cell == "cell0000"
        assert folder.read_cell("cell0000").seeds == (0, 1, 2)


def test_a_smaller_command_drops_the_waiting_cells_of_an_ended_one(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as queue:
        fill(queue, cells(base, 5, seeds=(0, 1, 2)))
        queue.drop_waiting(["cell0001"])
        fill(queue, cells(base, 2)[1:])
        assert drain(queue) == ["cell0001"]
        assert folder.read_cell("cell0001").seeds == (0, 1)


def test_a_command_that_started_meanwhile_keeps_its_cells(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as queue, Process(folder, "sweep"):
        fill(queue, cells(base, 2, seeds=(0, 1, 2)), alone=False)
        queue.drop_waiting([])
        fill(queue, cells(base, 1, seeds=(5,)), alone=True)
        assert folder.read_cell("cell0000").seeds == (0, 1, 2, 5)
        assert drain(queue) == ["cell0000", "cell0001"]


def test_a_cell_whose_folder_cannot_be_written_has_failed_and_the_others_run(folder: SweepFolder, base: Config) -> None:
    folder.cell("cell0001").parent.mkdir(parents=True)
    folder.cell("cell0001").touch()
    with opened(folder, None) as queue:
        fill(queue, cells(base, 3))
        (failed,) = queue.trials(TrialState.FAIL)
        assert failed.user_attrs["cell"] == "cell0001"
        assert "File exists" in failed.user_attrs["reason"]
        assert drain(queue) == ["cell0000", "cell0002"]


def test_a_given_back_cell_is_the_next_one(folder: SweepFolder, storage: str | None, base: Config) -> None:
    with opened(folder, storage) as queue:
        fill(queue, cells(base, 3))
        claim = queue.claim()
        assert claim is not None
        queue.requeue(claim)
        again = queue.claim()
        assert again is not None
        assert again.cell == claim.cell


def test_the_cell_of_a_killed_worker_is_requeued_three_times(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as queue:
        fill(queue, cells(base, 1))
        for death in range(1, MAX_ATTEMPTS):
            die_running(folder, None)
            assert queue.requeue_stale() == []
            (waiting,) = queue.trials(TrialState.WAITING)
            assert waiting.user_attrs["attempt"] == death + 1
            assert queue.states() == {"cell0000": "WAITING"}
        fill(queue, cells(base, 2))
        die_running(folder, None)
        (failed,) = queue.requeue_stale()
        assert failed.user_attrs["cell"] == "cell0000"
        assert queue.states() == {"cell0000": "FAIL", "cell0001": "WAITING"}
        assert f"died {MAX_ATTEMPTS} times" in queue.trials()[failed.number].user_attrs["reason"]
        assert drain(queue) == ["cell0001"], "one cell's deaths do not keep the others from running"


def test_a_new_command_counts_deaths_anew(folder: SweepFolder, storage: str | None, base: Config) -> None:
    with opened(folder, storage) as queue:
        fill(queue, cells(base, 1))
        for _ in range(MAX_ATTEMPTS + 2):
            die_running(folder, storage)
            assert queue.requeue_stale(reset_attempts=True) == []
        assert drain(queue) == ["cell0000"]


def _requeue(folder: SweepFolder, storage: str | None) -> None:
    with opened(folder, storage) as queue:
        queue.requeue_stale()


def test_processes_that_requeue_at_once_requeue_a_cell_once(
    folder: SweepFolder, storage: str | None, base: Config
) -> None:
    with opened(folder, storage) as queue:
        fill(queue, cells(base, 3))
        for _ in range(3):
            die_running(folder, storage)
        processes = [FORK.Process(target=_requeue, args=(folder, storage)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
        assert [trial.state.name for trial in queue.trials()] == ["FAIL"] * 3 + ["WAITING"] * 3
        assert sorted(drain(queue)) == ["cell0000", "cell0001", "cell0002"]


def test_the_cell_of_a_live_worker_is_left_alone(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as mine, opened(folder, None) as others:
        fill(mine, cells(base, 1))
        claim = mine.claim()
        assert others.requeue_stale() == []
        assert others.claim() is None
        assert claim is not None
        assert mine.complete(claim, 1.0)


def test_a_worker_that_lost_its_lock_ends_nothing_twice(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as slow, opened(folder, None) as fast:
        fill(slow, cells(base, 1))
        claim = slow.claim()
        assert claim is not None
        claim.lock.release()  # as a file server does when a host has not answered for long
        fast.requeue_stale()
        taken = fast.claim()
        assert taken is not None
        slow.requeue(claim)
        assert fast.claim() is None
        assert fast.complete(taken, 1.0)
        assert not slow.complete(claim, 2.0)
        assert [(trial.state.name, trial.value) for trial in fast.trials()] == [("FAIL", None), ("COMPLETE", 1.0)]


def test_an_incomplete_line_of_a_killed_writer_is_dropped(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as queue:
        fill(queue, cells(base, 2))
        with (folder.root / "study.journal").open("a") as journal_file:
            journal_file.write('{"op_code":6,"wor')
        assert drain(queue) == ["cell0000", "cell0001"]
    with opened(folder, None) as queue:
        assert queue.states() == {"cell0000": "COMPLETE", "cell0001": "COMPLETE"}


def test_a_sqlite_database_of_the_users_serves_as_storage(folder: SweepFolder, base: Config) -> None:
    url = f"sqlite:///{folder.multirun}/study.db"
    with opened(folder, url) as queue:
        fill(queue, cells(base, 2))
        assert drain(queue) == ["cell0000", "cell0001"]
    assert optuna.load_study(study_name=folder.sweep, storage=url).best_value == 0.0
    assert not (folder.root / "study.journal").exists()


def test_a_storage_that_serves_another_folder_of_that_name_is_refused(postgres: str, tmp_path: Path) -> None:
    name = f"s{secrets.token_hex(4)}"
    with opened(SweepFolder(tmp_path / "a", name), postgres):
        pass
    with pytest.raises(ConfigError, match="another folder"), opened(SweepFolder(tmp_path / "b", name), postgres):
        pass


def test_a_storage_out_of_reach_is_one_line_without_the_password(folder: SweepFolder) -> None:
    with pytest.raises(ConfigError) as caught, opened(folder, "postgresql://lab:geheim@127.0.0.1:1/nowhere", "sweep"):
        pass
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_worker_that_starts_while_the_server_restarts_waits_for_it_and_a_command_does_not(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opens, slept, url = storage._database, list[bool](), f"sqlite:///{folder.multirun}/study.db"

    def starting(url: str) -> BaseStorage:
        if len(slept) < 2:
            raise OperationalError("SELECT 1", None, Exception("the database system is starting up"))
        return opens(url)

    def sleep(_: float) -> None:
        slept.append(not is_locked(folder.root / "queue.lock"))

    monkeypatch.setattr(storage, "_database", starting)
    monkeypatch.setattr("src.sweep.queue.retry.time.sleep", sleep)
    with pytest.raises(ConfigError, match=r"starting up.*is the server running"), opened(folder, url, "sweep"):
        pass
    assert not slept
    with opened(folder, url) as queue:
        assert queue.trials() == []
    assert slept == [True, True], "it waits without the lock, so that others may try"
    events = [record.message.removeprefix(f"storage={url}: ") for record in caplog.records]
    assert events == [
        "does not answer (the database system is starting up); retrying for 5 min 0 s",
        "is available again",
    ]


def test_the_error_for_a_damaged_queue_names_the_fix(folder: SweepFolder) -> None:
    folder.root.mkdir(parents=True)
    (folder.root / "study.journal").write_text("no journal\n" * 1000)
    with pytest.raises(ConfigError, match="delete this file"), opened(folder, None):
        pass


def test_the_axis_of_a_dashboard_has_a_name_that_is_written_once(folder: SweepFolder) -> None:
    """optuna-dashboard called it "Objective 0"."""
    for _ in range(2):
        with opened(folder, None):
            pass
    assert (folder.root / "study.journal").read_text().count("first regime minus second") == 1
    study = optuna.load_study(
        study_name=folder.sweep, storage=JournalStorage(JournalFileBackend(str(folder.root / "study.journal")))
    )
    assert study.metric_names == ["first regime minus second"]
