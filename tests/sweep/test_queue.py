"""The queue hands every cell to exactly one living worker, on SQLite and on PostgreSQL, whatever dies in between."""

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

from src.config import Config, compose
from src.errors import ConfigError
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell
from src.sweep.processes import Member
from src.sweep.queue.queue import MAX_ATTEMPTS, Claim, WorkQueue

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path, f"s{secrets.token_hex(4)}")  # a name of its own: the tests share one PostgreSQL


@pytest.fixture(scope="module")
def base() -> Config:
    return compose(["seeds=2"])


def cells(base: Config, n_cells: int, **changes: object) -> list[tuple[str, Cell]]:
    """Cells that differ in their ratio, under made-up hashes."""
    found = []
    for index in range(n_cells):
        split = dataclasses.replace(base.split, ratio=(index + 1) / 10)
        config = dataclasses.replace(base, split=split, **changes)  # type: ignore[arg-type]
        found.append((f"cell{index:04d}", Cell(config, (f"split.ratio={split.ratio}",))))
    return found


@contextmanager
def opened(folder: SweepFolder, storage: str | None) -> Iterator[tuple[WorkQueue, Member]]:
    with Member(folder, "worker") as member:
        queue = WorkQueue(folder, member, folder.write_queue(storage, "none"))
        try:
            yield queue, member
        finally:
            queue.close()


def fill(queue: WorkQueue, given: list[tuple[str, Cell]], *, alone: bool = True) -> dict[str, int]:
    distributions = queue.distributions()
    distributions.prepare(cell.axes for _, cell in given)
    return queue.enqueue(given, distributions, alone=alone)


def drain(queue: WorkQueue) -> list[str]:
    claimed = []
    while (claim := queue.claim()) is not None:
        claimed.append(claim.cell)
        assert queue.complete(claim, 0.0)
    return claimed


def _work(folder: SweepFolder, storage: str | None, diary: Path) -> None:
    with opened(folder, storage) as (queue, _):
        diary.write_text("\n".join(drain(queue)))


def _die_running(folder: SweepFolder, storage: str | None) -> None:
    with opened(folder, storage) as (queue, _):
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
    with opened(folder, storage) as (queue, _):
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
    with opened(folder, None) as (queue, _):
        fill(queue, cells(base, 3))
        claim = queue.claim()
        assert claim is not None
        queue.complete(claim, 0.25)
    study = optuna.load_study(study_name=folder.sweep, storage=f"sqlite:///{folder.root / 'queue.db'}")
    table = study.trials_dataframe()
    assert list(table["params_ratio"]) == [0.1, 0.2, 0.3]
    assert list(table["state"]) == ["COMPLETE", "WAITING", "WAITING"]
    assert set(table["params_data"]) == {"digits"}
    assert study.best_value == 0.25


def test_an_empty_queue_gives_nothing_and_gains_nothing(folder: SweepFolder, storage: str | None, base: Config) -> None:
    with opened(folder, storage) as (queue, _):
        assert queue.claim() is None
        fill(queue, cells(base, 2))
        assert drain(queue) == ["cell0000", "cell0001"]
        assert queue.claim() is None
        assert len(queue.states()) == 2


def test_the_same_cells_from_two_commands_are_queued_once(
    folder: SweepFolder, storage: str | None, base: Config
) -> None:
    given = cells(base, 5)
    with opened(folder, storage) as (one, _), opened(folder, storage) as (two, _):
        first = fill(one, given, alone=False)
        assert one.claim() is not None  # one is under way meanwhile
        assert fill(two, given, alone=False) == first
        assert len(two.states()) == 5


def test_more_seeds_for_a_waiting_cell_widen_it(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as (queue, _):
        fill(queue, cells(base, 1))
        fill(queue, cells(base, 1, seeds=(1, 5)), alone=False)
        assert len(queue.states()) == 1
        assert folder.read_cell("cell0000").seeds == (0, 1, 5)


def test_more_seeds_for_a_running_cell_wait_until_it_ends(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as (queue, _):
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


def test_a_smaller_command_drops_what_waited_for_one_that_is_gone(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as (queue, _):
        fill(queue, cells(base, 5, seeds=(0, 1, 2)))
        queue.forget(["cell0001"])
        fill(queue, cells(base, 2)[1:])
        assert drain(queue) == ["cell0001"]
        assert folder.read_cell("cell0001").seeds == (0, 1)


def test_a_command_that_has_come_meanwhile_keeps_what_it_queued(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as (queue, _), Member(folder, "sweep"):
        fill(queue, cells(base, 2, seeds=(0, 1, 2)), alone=False)
        queue.forget([])
        fill(queue, cells(base, 1, seeds=(5,)), alone=True)
        assert folder.read_cell("cell0000").seeds == (0, 1, 2, 5)
        assert drain(queue) == ["cell0000", "cell0001"]


def test_a_cell_whose_folder_cannot_be_written_has_failed_and_the_others_run(folder: SweepFolder, base: Config) -> None:
    folder.cell("cell0001").parent.mkdir(parents=True)
    folder.cell("cell0001").touch()
    with opened(folder, None) as (queue, _):
        trials = fill(queue, cells(base, 3))
        (failed,) = queue.entries("FAIL")
        assert failed.trial_id == trials["cell0001"]
        assert "File exists" in (failed.reason or "")
        assert drain(queue) == ["cell0000", "cell0002"]


def test_a_given_back_cell_is_the_next_one(folder: SweepFolder, storage: str | None, base: Config) -> None:
    with opened(folder, storage) as (queue, _):
        fill(queue, cells(base, 3))
        claim = queue.claim()
        assert claim is not None
        queue.requeue(claim)
        assert queue.claim() == claim


def test_a_killed_workers_cell_is_taken_up_again_three_times(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as (queue, member):
        trials = fill(queue, cells(base, 2))
        for death in range(1, MAX_ATTEMPTS):
            die_running(folder, None)
            assert queue.take_up_dead() == []
            attempts = {entry.cell: entry.attempt for entry in queue.entries("WAITING")}
            assert attempts == {"cell0000": death + 1, "cell0001": 1}
        die_running(folder, None)
        given_up = queue.take_up_dead()
        assert given_up == [Claim(trials["cell0000"], "cell0000", MAX_ATTEMPTS)]
        (failed,) = queue.entries("FAIL")
        assert f"died {MAX_ATTEMPTS} times" in (failed.reason or "")
        assert drain(queue) == ["cell0001"], "one cell's deaths do not keep the others from running"
        assert member.alive(member.id)


def test_a_new_command_forgives(folder: SweepFolder, storage: str | None, base: Config) -> None:
    with opened(folder, storage) as (queue, _):
        fill(queue, cells(base, 1))
        for _ in range(MAX_ATTEMPTS + 2):
            die_running(folder, storage)
            assert queue.take_up_dead(forgive=True) == []
        assert drain(queue) == ["cell0000"]


def test_a_living_workers_cell_is_left_alone(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as (mine, _), opened(folder, None) as (others, _):
        fill(mine, cells(base, 1))
        claim = mine.claim()
        assert others.take_up_dead() == []
        assert others.claim() is None
        assert claim is not None
        assert mine.complete(claim, 1.0)


def test_who_was_taken_for_dead_ends_nothing_twice(folder: SweepFolder, base: Config) -> None:
    with opened(folder, None) as (slow, sleeper), opened(folder, None) as (fast, _):
        fill(slow, cells(base, 1))
        claim = slow.claim()
        assert claim is not None
        (folder.members / f"{sleeper.id}.json").unlink()  # as another host does after the grace period
        fast.take_up_dead()
        taken = fast.claim()
        assert taken is not None
        slow.requeue(claim)
        assert fast.claim() is None, "the sleeper cannot give back what is no longer its own"
        assert fast.complete(taken, 1.0)
        assert not slow.complete(claim, 2.0)
        (entry,) = fast.entries()
        assert entry.state == "COMPLETE"


def test_a_storage_that_serves_another_folder_of_that_name_is_refused(postgres: str, tmp_path: Path) -> None:
    name = f"s{secrets.token_hex(4)}"
    with opened(SweepFolder(tmp_path / "a", name), postgres):
        pass
    with pytest.raises(ConfigError, match="another folder"), opened(SweepFolder(tmp_path / "b", name), postgres):
        pass


def test_a_storage_out_of_reach_is_one_line_without_the_password(folder: SweepFolder) -> None:
    with pytest.raises(ConfigError) as caught, opened(folder, "postgresql://lab:geheim@127.0.0.1:1/nowhere"):
        pass
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_queue_says_what_to_do(folder: SweepFolder) -> None:
    folder.root.mkdir(parents=True)
    (folder.root / "queue.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match="delete this file"), opened(folder, None):
        pass
