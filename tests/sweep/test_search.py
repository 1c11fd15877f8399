"""A search samples every point once, trains nothing twice and resumes like a grid.

Cells are run by the fake engine (tests/sweep/fake_engine.py), whose objective is best at ``optimizer.lr=0.1``.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console

from src.cells.outcome import CellOutcome
from src.config import Config
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import n_shares
from src.sweep.processes import Process
from src.sweep.search.trials import best_first, best_text
from src.sweep.search.work import SearchWork
from src.sweep.supervisor import Supervisor
from src.sweep.workers.slurm import WorkerJob
from src.sweep.workers.worker import StopRequest, Worker
from tests.sweep import fake_engine
from tests.sweep.searches import BASE, CUT, ENGINE, LR, line_of, opened, ran, reported, run, search_of, work

pytestmark = pytest.mark.usefixtures("hydra")


def test_the_same_seed_gives_the_same_trials_interrupted_or_not(tmp_path: Path) -> None:
    """Past the ten random points with which TPE starts."""
    asked = ["search=tpe", "search.n_trials=12", LR, "optimizer.batch_size=16,32"]
    whole = run(search_of(*asked, multirun=tmp_path / "a"), tmp_path / "a")
    for _ in range(2):
        with opened(search_of(*asked, multirun=tmp_path / "b"), tmp_path / "b") as queue:
            work(queue, 5)
    assert reported(run(search_of(*asked, multirun=tmp_path / "b"), tmp_path / "b")) == reported(whole)
    assert len(whole) == 12
    assert len({trial.params["optimizer.lr"] for trial in whole}) == 12
    other = search_of(*asked, "search.seed=1", multirun=tmp_path / "a").propose([])
    assert other is not None
    assert other.point["optimizer.lr"] not in {trial.params["optimizer.lr"] for trial in whole}


def test_more_trials_extend_the_search_and_fewer_run_nothing(tmp_path: Path) -> None:
    first = run(search_of(LR, "search.n_trials=3", multirun=tmp_path), tmp_path)
    more = run(search_of(LR, "search.n_trials=5", multirun=tmp_path), tmp_path)
    assert reported(more)[:3] == reported(first)
    assert len(more) == 5
    before = ran(tmp_path)
    assert reported(run(search_of(LR, "search.n_trials=2", multirun=tmp_path), tmp_path)) == reported(more)
    assert ran(tmp_path) == before
    assert set(before.values()) == {1}


def test_an_interrupted_trial_resumes_with_its_own_point(tmp_path: Path) -> None:
    with opened(search_of(LR, "search.n_trials=3", multirun=tmp_path), tmp_path) as queue:
        claim = queue.claim()
        assert claim is not None
        queue.requeue(claim)
    trials = run(search_of(LR, "search.n_trials=3", multirun=tmp_path), tmp_path)
    assert reported(trials) == reported(
        run(search_of(LR, "search.n_trials=3", multirun=tmp_path / "whole"), tmp_path / "whole")
    )


def test_the_value_of_a_finished_cell_is_reported_at_once(tmp_path: Path) -> None:
    """A search for another regime's metric over the same points trains nothing."""
    run(search_of(LR, multirun=tmp_path), tmp_path)
    before = ran(tmp_path)
    other = run(search_of(LR, "objective=combined/val/union/accuracy", multirun=tmp_path), tmp_path)
    assert [trial.state.name for trial in other].count("COMPLETE") >= 5
    assert ran(tmp_path) == before


def test_two_workers_share_the_points_and_a_repeated_point_runs_once(storage: str | None, tmp_path: Path) -> None:
    search = search_of("stopping.epochs=1,2", "search.n_trials=8", multirun=tmp_path)
    with opened(search, tmp_path, storage) as one, opened(search, tmp_path, storage) as two:
        mine = one.claim()
        assert mine is not None
        theirs = two.claim()  # another cell, or None while the only next point is the one that is running
        while theirs is not None:
            assert theirs.cell != mine.cell
            two.tell(theirs, fake_engine.run_cell(fake_engine.resolve(two.config_of(theirs.trial))))
            theirs = two.claim()
        one.tell(mine, fake_engine.run_cell(fake_engine.resolve(one.config_of(mine.trial))))
        work(two)
        assert [trial.user_attrs["point"] for trial in one.trials()] == list(range(8))
    assert set(ran(tmp_path).values()) == {1}
    assert len(ran(tmp_path)) == 2 * 2 * 2


def test_a_point_that_raises_fails_and_the_next_command_retries_it(tmp_path: Path) -> None:
    (tmp_path / "fake.json").write_text(json.dumps({"raise": [2]}))
    asked = (LR, "stopping.epochs=1,2")
    with opened(search_of(*asked, multirun=tmp_path), tmp_path) as queue:
        work(queue)
        failed = [t for t in queue.trials() if t.state.name == "FAIL"]
        assert {t.user_attrs["reason"] for t in failed} == {"epochs 2 is cursed"}
        assert len(queue.trials()) == 6
    (tmp_path / "fake.json").write_text("{}")
    with opened(search_of(*asked, multirun=tmp_path), tmp_path) as queue:
        queue.retry_failed()
        work(queue)
        points = queue.latest()
        assert len(queue.trials()) == 6 + len(failed)
    assert {trial.state.name for trial in points.values()} <= {"COMPLETE", "PRUNED"}
    assert all(points[t.user_attrs["point"]].params == t.params for t in failed)


def test_a_refused_or_diverged_point_is_pruned_with_its_reason_and_the_search_continues(tmp_path: Path) -> None:
    search = search_of("optimizer.lr=interval(0.5,1)", "split.val=interval(0.1,1.5)", multirun=tmp_path)
    trials = run(search, tmp_path)
    assert len(trials) == 6
    for trial in trials:
        refused, diverges = trial.params["split.val"] >= 1, trial.params["optimizer.lr"] > 0.9
        assert trial.state.name == ("PRUNED" if refused or diverges else "COMPLETE"), trial
        if refused:
            assert "split.val" in trial.user_attrs["reason"]
            assert "cell" not in trial.user_attrs
        elif diverges:
            assert trial.user_attrs["reason"] == "diverged, says the fake"
    assert {t.state.name for t in trials} == {"PRUNED", "COMPLETE"}


def test_a_learning_sampler_approaches_the_optimum(tmp_path: Path) -> None:
    """A space of three decades with its optimum at 0.1."""
    search = search_of("search=gp", "search.n_trials=14", LR, "seeds=1", multirun=tmp_path)
    trials = run(search, tmp_path)
    assert 0.08 < best_first(trials, search)[0].params["optimizer.lr"] < 0.125
    assert search.propose(trials) == search.propose(trials)


def test_a_difference_may_be_where_it_is_least(tmp_path: Path) -> None:
    """The fake's regimes differ by |lr - 0.1|, the first being better."""
    asked = ("objective=sequential-combined/val/union/accuracy", LR)
    least = search_of(*asked, "objective_direction=minimize_absolute", multirun=tmp_path)
    largest = search_of(*asked, multirun=tmp_path)
    for search in (least, largest):
        for trial in run(search, tmp_path):
            if trial.state.name == "COMPLETE":
                assert trial.values[0] == pytest.approx(abs(trial.params["optimizer.lr"] - 0.1))
    assert least.id != largest.id
    trials = run(least, tmp_path)
    shown = 100 * best_first(trials, least)[0].values[0]
    assert (best_text(trials, least) or "").startswith(f"{shown:.1f} points at optimizer.lr="), "as the table has it"


def test_another_pruner_is_another_search(tmp_path: Path) -> None:
    ids = {search_of(*CUT, f"search.pruner={name}", multirun=tmp_path).id for name in ("none", "median", "hyperband")}
    assert len(ids) == 3


def test_optunas_own_tools_open_the_study(tmp_path: Path) -> None:
    search = search_of(LR, "optimizer.batch_size=16,32", multirun=tmp_path)
    run(search, tmp_path)
    study = optuna.load_study(
        study_name=f"s/{search.id}", storage=JournalStorage(JournalFileBackend(str(tmp_path / "s/study.journal")))
    )
    assert study.metric_names == ["sequential/val/union/accuracy"]
    assert all(trial.params.keys() == search.space.keys() for trial in study.get_trials())
    assert study.best_value == max(trial.values[0] for trial in study.get_trials() if trial.values)


def test_devices_of_one_run_train_only_the_runs_of_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run_group(config: Config, *others: object) -> CellOutcome:
        del others
        asked.append((config.seeds, config.trainer.devices))
        return fake_engine.run_cell(fake_engine.resolve(config))

    monkeypatch.setattr("src.sweep.workers.worker.run_group", run_group)
    search = search_of(LR, "trainer=cpu", "trainer.devices=2", "search.n_trials=1", multirun=tmp_path)
    folder = SweepFolder(tmp_path, "s")
    proposal = search.propose([])
    assert proposal is not None
    ((cell_hash, cell),) = search.plan(proposal.point, fake_engine).cells.items()
    folder.write_cell(cell_hash, dataclasses.replace(cell.config, seeds=(0, 1, 2, 3)))
    with opened(search, tmp_path) as queue, Process(folder, "worker") as process:
        assert Worker(process, ENGINE, StopRequest()).work(queue) == 1
        assert [trial.state.name for trial in queue.trials()] == ["COMPLETE"]
    assert asked == [((0, 1), 2)]
    assert folder.read_cell(cell_hash).seeds == (0, 1, 2, 3), "the grid's own"


class Jobs:
    """A launcher that starts no workers and records for how many points it was called."""

    detached, hopeless = True, False

    def __init__(self) -> None:
        self.asked: list[int] = []

    def keep_running(self, n_useful: int, n_ended: int) -> int:
        del n_ended
        self.asked.append(n_useful)
        return 0

    def interrupt(self) -> None:
        raise AssertionError

    def kill(self) -> None:
        raise AssertionError

    def wait(self, seconds: float) -> bool:
        raise AssertionError(seconds)

    def log(self, slot: int) -> Path:
        raise AssertionError(slot)


def test_a_detached_command_leaves_the_points_to_a_job_and_a_later_one_finds_them_done(tmp_path: Path) -> None:
    work = SearchWork(line_of(*BASE, f"multirun={tmp_path}", LR, "search.n_trials=3"), fake_engine)
    jobs = Jobs()
    supervisor = Supervisor(work, jobs, Console(quiet=True))
    assert supervisor.run() is None, "the workers continue"
    per_cell = n_shares(work.config)
    assert per_cell > 1
    assert jobs.asked == [3 * per_cell], "no more than can share the cells"
    WorkerJob("s", str(tmp_path), 1, work.search_id, ENGINE)()
    assert supervisor.run() == []
    assert jobs.asked[1:] == [0]
    assert len(work.trials) == 3
    assert set(ran(tmp_path).values()) == {1}
