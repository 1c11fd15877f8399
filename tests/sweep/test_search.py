"""A search samples every point once, trains nothing twice, resumes like a grid, and refuses errors before training.

Cells are run by the fake engine (tests/sweep/fake_engine.py), whose objective is best at ``optimizer.lr=0.1``.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from rich.console import Console

from src.config import Config
from src.errors import ConfigError
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import expand
from src.sweep.grid.plan import plan_sweep
from src.sweep.processes import Process
from src.sweep.search.search import Search, load_search, make_search
from src.sweep.search.space import rounded, space_of
from src.sweep.search.trials import TrialQueue, best_first
from src.sweep.search.work import SearchWork
from src.sweep.supervisor import Supervisor
from src.sweep.workers.slurm import WorkerJob
from src.sweep.workers.worker import StopRequest, Worker
from tests.sweep import fake_engine
from tests.sweep.searches import line_of

pytestmark = pytest.mark.usefixtures("hydra")

ENGINE = fake_engine.__name__
LR = "optimizer.lr=tag(log,interval(1e-3,1))"
BASE = ["search=random", "search.n_trials=6", "objective=sequential/val/union/accuracy", "seeds=2", "sweep=s"]


def search_of(*overrides: str, multirun: Path) -> Search:
    return make_search(line_of(*BASE, f"multirun={multirun}", *overrides), fake_engine)[0]


@contextmanager
def opened(search: Search, multirun: Path, storage: str | None = None) -> Iterator[TrialQueue]:
    folder = SweepFolder(multirun, "s")
    search.save(folder)
    with Process(folder, "worker") as process:
        queue = TrialQueue(folder, process, folder.write_queue(storage), search.id, ENGINE)
        try:
            yield queue
        finally:
            queue.close()


def work(queue: TrialQueue, n_cells: int = 1000) -> None:
    """Run at most `n_cells` cells as a worker does."""
    for _ in range(n_cells):
        claim = queue.claim()
        if claim is None:
            return
        try:
            outcome = fake_engine.run_cell(fake_engine.resolve(queue.config_of(claim.trial)))
        except RuntimeError as error:
            queue.fail(claim, str(error))
        else:
            queue.tell(claim, outcome)


def run(search: Search, multirun: Path) -> list[FrozenTrial]:
    """The whole search with one worker; its trials."""
    with opened(search, multirun) as queue:
        work(queue)
        return queue.trials()


def reported(trials: list[FrozenTrial]) -> list[tuple[Any, ...]]:
    return [(t.user_attrs["point"], t.params, t.state.name, t.values) for t in trials]


def ran(multirun: Path) -> Counter[str]:
    """The runs that the fake engine made, with how often."""
    path = multirun / "s/ran.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(line for line in lines if line.startswith("run"))


# ------------------------------------------------------------------------------------------------ the space


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("optimizer.lr=interval(0.1,1)", FloatDistribution(0.1, 1)),
        (LR, FloatDistribution(1e-3, 1, log=True)),
        ("stopping.epochs=int(interval(1,9))", IntDistribution(1, 9)),
        ("stopping.epochs=range(1,10)", IntDistribution(1, 9)),
        ("stopping.epochs=range(2,11,3)", IntDistribution(2, 8, step=3)),
        ("split.size=tag(log,range(100,401))", IntDistribution(100, 400, log=True)),
        ("split.val=range(0.25,1,0.25)", FloatDistribution(0.25, 0.75, step=0.25)),
        ("optimizer.batch_size=16,32", CategoricalDistribution([16, 32])),
        ("arch=mlp,cnn", CategoricalDistribution(["mlp", "cnn"])),
        ("split.sizes=[100,10],[50,0]", CategoricalDistribution(["[100,10]", "[50,0]"])),
    ],
)
def test_hydras_grammar_is_the_space(override: str, distribution: optuna.distributions.BaseDistribution) -> None:
    assert space_of(line_of(override)) == {override.partition("=")[0]: distribution}


def test_sampled_numbers_are_short_near_and_within_their_interval() -> None:
    space = {
        "lr": FloatDistribution(1e-3, 1, log=True),
        "ratio": FloatDistribution(1000.0, 1000.5),
        "val": FloatDistribution(0.1, 0.7, step=0.1),
        "size": IntDistribution(1, 9),
    }
    found = rounded({"lr": 0.01234567, "ratio": 1000.43219, "val": 0.30000000000000004, "size": 7}, space)
    assert found == {"lr": 0.01235, "ratio": 1000.432, "val": 0.3, "size": 7}
    assert rounded({"lr": 0.99999999}, space) == {"lr": 1.0}
    assert rounded({"ratio": 1000.4999999}, space) == {"ratio": 1000.5}


OK = [*BASE, LR]
CUT = [*OK, "search.pruner=hyperband", "regimes=[sequential]"]


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (BASE, ["search=random", "nothing to choose", "interval"]),
        ([*BASE, "optimizer.learn=interval(0,1)"], ["optimizer.learn=", "unknown key", "every corner"]),
        ([*BASE, "optimizer.lr=interval(1,0.1)"], ["optimizer.lr=interval(1,0.1)", "empty"]),
        ([*BASE, "stopping.epochs=range(5,5)"], ["stopping.epochs=range(5,5)", "empty"]),
        ([*BASE, "optimizer.lr=tag(log,interval(0,1))"], ["optimizer.lr=", "above 0"]),
        ([*BASE, "optimizer.lr=tag(lg,interval(0.1,1))"], ["optimizer.lr=", "lg", "did you mean log"]),
        ([*BASE, "arch=tag(log,choice(mlp,cnn))"], ["arch=", "no scale"]),
        ([*BASE, "stopping.epochs=interval(1,5)"], ["stopping.epochs=1.0", "whole number", "int(interval"]),
        ([*BASE, "split.val=interval(1.5,2)"], ["split.val=1.5", "every corner"]),
        ([*BASE, LR, "seed=0,1"], ["seed=0,1", "a seed cannot be searched", "seeds"]),
        ([*BASE, LR, "regime=sequential,combined"], ["regime=sequential,combined", "cannot be searched"]),
        ([*BASE, LR, "regime=replay", "regime.share=interval(0,1)"], ["regime.share=interval(0,1)", "regimes"]),
        ([*BASE, LR, "n_workers=1,2"], ["n_workers=1,2", "cannot be an axis"]),
        ([*OK, "search.n_trials=0"], ["search.n_trials=0", ">= 1"]),
        ([*OK, "search.pruner=medain"], ["search.pruner=medain", "did you mean median"]),
        (
            [*OK, "search.pruner=median", "objective=sequential-combined/val/d1/loss"],
            ["search.pruner=median", "bias the comparison sequential-combined", "search.pruner=none"],
        ),
        ([*OK, "search.pruner=median"], ["search.pruner=median", "combined too", "regimes=[sequential]"]),
        ([*CUT, "stopping=early_stopping"], ["search.pruner=hyperband", "early_stopping", "stopping=epochs"]),
        ([*CUT, "stopping=epochs,convergence"], ["search.pruner=hyperband", "convergence", "stopping=epochs"]),
        (
            [*CUT, "regimes=[average]", "objective='average/val/d1/loss'"],
            ["search.pruner=hyperband", "last stage of average", "search.pruner=none"],
        ),
        ([*CUT, "trainer=cpu", "trainer.devices=2"], ["search.pruner=hyperband", "several devices"]),
        ([*CUT, "trainer.curve_points=1"], ["search.pruner=hyperband", "raise trainer.curve_points"]),
        ([*CUT, "trainer.checkpoint_seconds=0"], ["search.pruner=hyperband", "checkpoint_seconds=0"]),
        ([*CUT, "trainer.precision=16-mixed"], ["search.pruner=hyperband", "16-mixed", "bf16-mixed"]),
        ([*OK, "objective=null"], ["objective=null", "sequential/val/union/accuracy"]),
        ([*OK, "objective=sequential/test/union/accuracy"], ["objective=sequential/test", "reads test sets"]),
        ([*OK, "objective=sequential/forgetting"], ["objective=sequential/forgetting", "reads test sets"]),
        ([*OK, "objective=accuracy"], ["objective=accuracy", "REGIME/val/SET/METRIC"]),
        ([*OK, "objective=replay/val/union/accuracy"], ["objective=replay/val", "neither a regime of regimes="]),
        (
            [*OK, "objective=sequential/val/union/acuracy"],
            ["val/union/acuracy", "did you mean sequential/val/union/accuracy"],
        ),
        ([*OK, "objective=sequential/val/d3/loss"], ["there is no val/d3/loss"]),
        ([*OK, "split.sizes=[100,0]", "objective=sequential/val/d2/loss"], ["there is no val/d2/loss"]),
        ([*OK, "objective=combined-sequential/val/d1/loss"], ["sequential-combined", "objective_direction=minimize"]),
        ([*OK, "objective_direction=maximise"], ["objective_direction=maximise", "did you mean maximize"]),
        ([*OK, "objective_direction=minimize_absolute"], ["objective_direction=minimize_absolute", "difference"]),
        ([*OK, "storage=mysql://here"], ["storage=mysql://here", "postgresql"]),
        ([*OK, "sweep='a/b'"], ["sweep=a/b", "letters"]),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(overrides: list[str], named: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_search(line_of(*overrides, f"multirun={tmp_path / 'm'}"), fake_engine)
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in named), line
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("overrides", "of", "direction"),
    [
        (["objective=combined/val/d1/accuracy"], ("combined",), "maximize"),
        (["objective=combined/val/d1/loss"], ("combined",), "minimize"),
        (["objective=sequential-combined/val/union/loss"], ("sequential", "combined"), "minimize"),
        (
            ["objective=sequential-combined/val/union/accuracy", "objective_direction=minimize_absolute"],
            ("sequential", "combined"),
            "minimize_absolute",
        ),
        (
            [
                "regimes=[sequential,{replay:{share:0.05}}]",
                "objective='sequential-replay(share=0.05)/val/union/accuracy'",
            ],
            ("sequential", "replay(share=0.05)"),
            "maximize",
        ),
    ],
)
def test_the_objective_names_regimes_by_label_and_its_metric_implies_the_direction(
    overrides: list[str], of: tuple[str, ...], direction: str, tmp_path: Path
) -> None:
    objective = search_of(LR, *overrides, multirun=tmp_path).objective
    assert (objective.of, objective.direction) == (of, direction)


def test_a_cell_of_a_search_is_the_cell_of_a_grid(tmp_path: Path) -> None:
    """Group choices, values that follow others and plain ones: the same recipe, so the same address on disk."""
    fixed = ["seeds=2", "sweep=s", f"multirun={tmp_path}", "stopping.epochs=${split.parts}"]
    search = search_of(*fixed, "arch=mlp,cnn", "optimizer.batch_size=16,32", LR, multirun=tmp_path)

    def resolved(given: list[str]) -> Mapping[str, Any]:
        return cast(Mapping[str, Any], OmegaConf.to_container(compose("config", given), resolve=True))

    grid = expand(
        [*fixed, "arch=mlp,cnn", "optimizer.batch_size=16,32", "optimizer.lr=0.02"],
        resolved,
        GlobalHydra.instance().config_loader(),
    )
    for cell in grid:
        point = {
            "arch": cell.config.arch.name,
            "optimizer.batch_size": cell.config.optimizer.batch_size,
            "optimizer.lr": 0.02,
        }
        assert search.cell(point).config == cell.config
        assert list(search.plan(point, fake_engine).cells) == list(plan_sweep([cell], fake_engine).cells)


def test_a_worker_reads_the_search_without_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "")
    search = search_of("storage=postgresql://ann:geheim@db/lab", LR, multirun=tmp_path)
    folder = SweepFolder(tmp_path, "s")
    search.save(folder)
    assert load_search(folder, search.id) == search
    assert "geheim" not in (folder.search(search.id) / "search.json").read_text()


# ------------------------------------------------------------------------------------------------ its trials


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
    other = search_of(*asked, "search.seed=1", multirun=tmp_path / "a").suggest([])
    assert other["optimizer.lr"] not in {trial.params["optimizer.lr"] for trial in whole}


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
    assert search.suggest(trials) == search.suggest(trials)


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


# ------------------------------------------------------------------------------------------------ who works on it


def test_devices_of_one_run_train_only_the_runs_of_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run_group(_: SweepFolder, config: Config, *others: object) -> fake_engine.Outcome:
        del others
        asked.append((config.seeds, config.trainer.devices))
        return fake_engine.run_cell(fake_engine.resolve(config))

    monkeypatch.setattr("src.sweep.workers.worker.run_group", run_group)
    search = search_of(LR, "trainer=cpu", "trainer.devices=2", "search.n_trials=1", multirun=tmp_path)
    folder = SweepFolder(tmp_path, "s")
    ((cell_hash, cell),) = search.plan(search.suggest([]), fake_engine).cells.items()
    folder.write_cell(cell_hash, dataclasses.replace(cell.config, seeds=(0, 1, 2, 3)))
    with opened(search, tmp_path) as queue, Process(folder, "worker") as process:
        assert Worker(folder, process, ENGINE, StopRequest()).work(queue) == 1
        assert [trial.state.name for trial in queue.trials()] == ["COMPLETE"]
    assert asked == [((0, 1), 2)]
    assert folder.read_cell(cell_hash).seeds == (0, 1, 2, 3), "the grid's own"


class Jobs:
    """A launcher that starts no workers and records for how many points it was called."""

    detached, hopeless = True, False

    def __init__(self) -> None:
        self.asked: list[int] = []

    def keep_running(self, n_waiting: int, n_ended: int) -> int:
        del n_ended
        self.asked.append(n_waiting)
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
    assert jobs.asked == [3]
    WorkerJob("s", str(tmp_path), 1, work.search_id, ENGINE)()
    assert supervisor.run() == []
    assert jobs.asked == [3, 0]
    assert len(work.trials) == 3
    assert set(ran(tmp_path).values()) == {1}
