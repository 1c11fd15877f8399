"""seeds=auto: seeds go to undecided cells, an interrupted command takes the same ones, and a repeated one takes none."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from src.comparison.families import declare, read_families
from src.comparison.pairing import load_records
from src.comparison.sentences import sentence
from src.comparison.tables import remarks, sweep_table
from src.comparison.verdicts import CellVerdict, judge
from src.config import compose
from src.config.parse import Seeding
from src.errors import ConfigError
from src.sweep.grid.cells import expand, seeding_of
from src.sweep.grid.plan import plan_sweep
from src.sweep.mlflow_columns import cell_metrics, cell_tags
from src.sweep.processes import Process
from src.sweep.seeding import FIRST, SeedingWork
from src.sweep.workers.worker import StopRequest, Worker
from tests.records import write_run
from tests.sweep import fake_engine
from tests.sweep.searches import line_of

pytestmark = pytest.mark.usefixtures("hydra")
RATES = {0.1: -0.1, 0.2: -0.02, 0.3: 0.0, 0.4: 0.0}
"""Learning rate -> sequential - combined: large, one standard deviation, none, none."""
BOTH = ["sequential", "combined"]


def work_on(multirun: Path, *words: str) -> SeedingWork:
    rates = f"optimizer.lr={','.join(map(str, RATES))}"
    line = line_of(rates, "seeds=auto", "sweep=s", f"multirun={multirun}", "seeding.max=24", *words)
    seeding = seeding_of(line)
    assert seeding is not None
    work = SeedingWork(plan_sweep(expand(line), fake_engine), fake_engine, seeding)
    work.declare()
    return work


def rounds(work: SeedingWork, most: int = 100, failing: float | None = None) -> int:
    """Runs at most so many rounds, as the supervisor and a worker do; returns how many there were."""
    if work.is_finished():
        return 0
    with Process(work.folder, "sweep", in_rounds=True) as process:
        queue = work.open(process)
        for _ in work.fill(queue, alone=True):
            pass
        for number in range(1, most + 1):
            while (claim := queue.claim()) is not None:
                config = queue.config_of(claim.trial)
                if config.optimizer.lr == failing:
                    queue.fail(claim, "cursed")
                    continue
                train(work.folder.root, claim.cell, config.optimizer.lr, config.seeds)
                queue.complete(claim, 0.0)
            if number == most or not work.extend(queue):
                queue.close()
                return number
    raise AssertionError


def train(sweep: Path, cell: str, rate: float, seeds: tuple[int, ...]) -> None:
    for seed in seeds:
        lead = RATES[rate] + 0.02 * np.random.default_rng([seed, round(10 * rate)]).normal()
        for regime, value in zip(BOTH, (0.6 + lead, 0.6), strict=True):
            if not (sweep / "cells" / cell / f"{regime}-{seed}").exists():
                write_run(sweep, cell, regime, seed, value, axes={"lr": rate})


def seeds_of(work: SeedingWork) -> dict[float, int]:
    return {cell.config.optimizer.lr: len(cell.config.seeds) for cell in work.cells()}


def verdicts(work: SeedingWork) -> dict[float, CellVerdict]:
    records = load_records(work.folder.root)
    found = judge(records, BOTH, families=read_families(work.folder.root))
    return {float(own.axes["lr"]): own for own in found}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, hydra: None) -> SeedingWork:  # noqa: ARG001
    work = work_on(tmp_path_factory.mktemp("auto"))
    assert rounds(work) > 3
    return work


def test_a_clear_cell_takes_few_seeds_and_one_without_a_difference_all(finished: SeedingWork) -> None:
    n = seeds_of(finished)
    assert n[0.1] <= 9
    assert n[0.1] < n[0.2]
    assert n[0.3] == n[0.4] == 24
    found = verdicts(finished)
    assert {rate: own.n for rate, own in found.items()} == n
    assert (found[0.1].winner, found[0.1].decided_by) == ("combined", "difference")
    assert (found[0.3].winner, found[0.3].decided_by) == ("undecided", "nothing yet")


def test_a_repeated_command_has_nothing_to_run_and_the_same_seeds(finished: SeedingWork) -> None:
    again = work_on(finished.folder.multirun)
    assert again.is_finished()
    assert seeds_of(again) == seeds_of(finished)
    assert again.decided == finished.decided


def test_a_command_that_is_stopped_after_every_round_takes_the_same_seeds(
    finished: SeedingWork, tmp_path: Path
) -> None:
    work = work_on(tmp_path)
    while rounds(work, most=1):
        work = work_on(tmp_path)
    assert seeds_of(work) == seeds_of(finished)
    (lost,) = (cell for cell in work.cells() if cell.config.optimizer.lr == 0.2)
    shutil.rmtree(lost.folder / "combined-2")
    work = work_on(tmp_path)
    assert sum(len(cell.missing_runs()) for cell in work.cells()) == 1, "a lost run is run again, and nothing else"


def test_table_sentence_and_metrics_say_what_decided_and_after_how_many_seeds(finished: SeedingWork) -> None:
    found = verdicts(finished)
    n = found[0.1].n
    assert f"n = {n} seeds; decided by the difference after {n} seeds, valid at any stop" in sentence(found[0.1])
    assert cell_tags([found[0.1]])["decided_by"] == f"difference, {n} seeds"
    table = sweep_table(list(found.values()))
    column = table.heads.index("decided by")
    assert table.rows[0][column] == "difference"
    assert "seeds=auto: p and intervals hold at any stop" in remarks(list(found.values()))
    runs = [run for run in load_records(finished.folder.root).runs if run.axes["lr"] == 0.1]
    metrics = cell_metrics(runs, BOTH, [found[0.1]])
    assert metrics["delta/sequential-combined/union/accuracy/seeds"] == n
    assert metrics["delta/sequential-combined/union/accuracy/p"] == found[0.1].p
    assert (
        metrics["delta/sequential-combined/union/accuracy/p"]
        > cell_metrics(runs, BOTH)["delta/sequential-combined/union/accuracy/p"]
    ), "a fixed test would claim too much"


def test_equivalence_within_the_margin_is_a_decision(tmp_path: Path) -> None:
    work = work_on(tmp_path, "seeding.margin=0.05", "seeding.max=40")
    rounds(work)
    found = verdicts(work)
    assert (found[0.3].winner, found[0.3].decided_by) == ("equivalent", "equivalence")
    assert f"decided by equivalence after {found[0.3].n} seeds: within 5.0 points, p = 0.0" in sentence(found[0.3])
    assert found[0.1].winner == "combined"
    assert max(seeds_of(work).values()) < 40
    with pytest.raises(ConfigError, match=r"seeding\.margin=0\.01: is 0\.05 for comparisons that sweep=s declared on"):
        work_on(tmp_path, "seeding.margin=0.01")


def test_a_budget_of_runs_ends_the_rounds(tmp_path: Path) -> None:
    work = work_on(tmp_path, "seeding.runs=70")
    rounds(work)
    assert 60 < 2 * sum(seeds_of(work).values()) <= 70
    assert work_on(tmp_path, "seeding.runs=70").is_finished()
    with pytest.raises(ConfigError, match=r"seeding\.runs=20: is less than the 32 runs of the first 4 seeds"):
        work_on(tmp_path, "seeding.runs=20")


def test_a_cell_that_fails_is_reported_and_holds_nobody_up(tmp_path: Path) -> None:
    work = work_on(tmp_path)
    rounds(work, failing=0.4)
    n = seeds_of(work)
    assert (n[0.4], n[0.3]) == (FIRST, 24)
    assert verdicts(work)[0.1].winner == "combined"
    assert not work_on(tmp_path).is_finished(), "the next command tries it again"


def test_fixed_seeds_cannot_be_extended_by_results(tmp_path: Path) -> None:
    cells = [cell.hash for cell in work_on(tmp_path / "other").cells()]
    declare(tmp_path / "s", cells, BOTH, None, range(12))
    with pytest.raises(ConfigError, match=r"seeds=auto: sweep=s declared these comparisons on .* with fixed seeds"):
        work_on(tmp_path)


def test_a_collapsed_run_closes_its_cell(tmp_path: Path) -> None:
    work = work_on(tmp_path)
    rounds(work, most=1)
    cell = next(cell for cell in work.cells() if cell.config.optimizer.lr == 0.3)
    shutil.rmtree(cell.folder / "combined-1")
    write_run(work.folder.root, cell.hash, "combined", 1, None, axes={"lr": 0.3}, status="diverged")
    work = work_on(tmp_path)
    rounds(work)
    assert seeds_of(work)[0.3] == FIRST
    assert (verdicts(work)[0.3].winner, verdicts(work)[0.3].decided_by) == ("inconclusive", "collapses")


def test_a_worker_waits_for_the_next_round_and_leaves_with_the_command(tmp_path: Path) -> None:
    work = work_on(tmp_path)

    class Empty:
        n_waiting = requeue_stale = staticmethod(lambda: 0)
        running = staticmethod(list)

    with Process(work.folder, "worker") as process:
        worker = Worker(process, fake_engine.__name__, StopRequest())
        with Process(work.folder, "sweep", in_rounds=True):
            assert worker._wait_for_more(Empty())  # type: ignore[arg-type]
        with Process(work.folder, "sweep"):
            assert not worker._wait_for_more(Empty())  # type: ignore[arg-type]


BAD: Mapping[str, tuple[list[str], str]] = {
    "without auto": (["seeding.max=20"], r"seeding\.max=20: has no effect without seeds=auto"),
    "too few": (["seeds=auto", "seeding.max=5"], r"seeding\.max=5: "),
    "another word": (
        ["seeds=many"],
        r"seeds=many: must be a number of seeds, a list of different whole numbers >= 0, or auto",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_mistakes_are_one_line(name: str) -> None:
    words, message = BAD[name]
    with pytest.raises(ConfigError, match=message):
        compose(words)


def test_axes_and_searches_refuse_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seeds=auto,12: cannot be an axis next to seeds=auto"):
        seeding_of(line_of("seeds=auto,12"))
    from tests.sweep.searches import LR, search_of

    with pytest.raises(ConfigError, match=r"seeds=auto: is for a grid; search=random needs a number of seeds"):
        search_of(LR, "seeds=auto", multirun=tmp_path)
    assert seeding_of(line_of("seeds=12")) is None
    assert seeding_of(line_of("seeds=auto")) == Seeding()
