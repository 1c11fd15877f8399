"""A command with many cells stays responsive: it judges them in slices, looks at signals and shows its progress."""

from __future__ import annotations

import io
import itertools
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import create_trial
from rich.console import Console

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.config import compose
from src.progress import Display, SweepProgress
from src.sweep import laboratory, summary
from src.sweep.grid.cells import Cell, expand
from src.sweep.grid.plan import plan_sweep
from src.sweep.supervisor import Supervisor
from src.sweep.work import JUDGING_SECONDS, GridWork
from tests.sweep import fake_engine
from tests.sweep.searches import line_of

pytestmark = pytest.mark.usefixtures("hydra")


def work_on(tmp_path: Path, n_cells: int) -> GridWork:
    rates = ",".join(f"{0.01 * (k + 1):g}" for k in range(n_cells))
    cells = expand(line_of("seeds=1", f"optimizer.lr={rates}", "sweep=s", f"multirun={tmp_path}"))
    return GridWork(plan_sweep(cells, fake_engine), fake_engine)


class Ended:
    """Workers of a sweep that waits for nothing but a signal."""

    detached, hopeless = False, False

    def keep_running(self, n_useful: int, n_ended: int) -> int:
        return 0

    def interrupt(self) -> None: ...

    def kill(self) -> None: ...

    def wait(self, seconds: float) -> bool:
        return True

    def log(self, slot: int) -> Path:
        raise AssertionError(slot)


def test_a_signal_ends_the_wait_between_slow_looks_at_the_queue(tmp_path: Path, monkeypatch: Any) -> None:
    work = work_on(tmp_path, 1)
    looks = itertools.count()

    def slow(trials: Any, original: Any = work.progress) -> Any:
        if next(looks) == 1:
            time.sleep(1)  # so that the supervisor waits for 4 s
        return original(trials)

    monkeypatch.setattr(work, "progress", slow)
    threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(SystemExit) as stopped:
        Supervisor(work, Ended(), Console(quiet=True)).run()
    assert stopped.value.code == 130
    assert time.monotonic() - began < 3 + 1.5


def test_finished_cells_are_judged_in_slices(tmp_path: Path) -> None:
    work = work_on(tmp_path, 12)
    judged: list[str] = []

    def slow(cell: str) -> str:
        time.sleep(JUDGING_SECONDS / 3)
        judged.append(cell)
        return "combined"

    work.verdict = slow
    work._queued = set(work._plan.cells)
    work._plan.n_missing.update(dict.fromkeys(work._plan.cells, 0))
    counts = []
    while len(judged) < 12:
        began = len(judged)
        assert work.progress({}).result == f"so far combined {len(judged)}"
        counts.append(len(judged) - began)
    assert max(counts) <= 4, "each look takes about JUDGING_SECONDS"
    work.progress({})
    assert sorted(judged) == sorted(work._plan.cells), "each once"


def test_the_table_is_printed_before_its_files_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose(["split.size=40", "stopping.epochs=1", "seeds=2", "tracking=off", f"multirun={tmp_path}"])
    run_cell(resolve(config))
    shown: list[str] = []
    write = summary._write

    def observed(*arguments: Any) -> list[str]:
        shown.append(capsys.readouterr().out)
        return write(*arguments)

    monkeypatch.setattr(summary, "_write", observed)
    summary.report(tmp_path / config.sweep, [resolve(config)], "the command")
    assert "too few seeds" in shown[0]
    assert "map-sequential-combined.png" in capsys.readouterr().out, "the files are named when they are there"


def test_the_end_of_training_reads_no_result_before_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(["split.size=40", "stopping.epochs=1", "seeds=2", "tracking=off", f"multirun={tmp_path}"])
    run_cell(resolve(config))
    work = GridWork(plan_sweep([Cell(config)], laboratory), laboratory)
    (key,) = work._plan.cells
    trial = create_trial(value=0.0, user_attrs={"cell": key, "axes": {"ratio": 1}})
    n_read = Counter[str]()

    def counted(path: Path, original: Any = Path.read_bytes) -> bytes:
        n_read[path.name] += 1
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    assert work.failures({key: trial}) == []
    work._queued = {key}
    assert work.failures({key: trial}) == []
    assert not n_read["result.json"]
    summary.report(tmp_path / config.sweep, [resolve(config)], "the command")
    n_runs = len(config.regimes) * len(config.seeds)
    assert n_read["result.json"] <= 2 * n_runs, "each for its verdict, and for the time at which its cell started"
    next(tmp_path.glob("*/cells/*/*/result.json")).unlink()
    (line,) = work.failures({key: trial})
    assert line == f"cell {key} (ratio=1): 1 runs have no result, though their worker reported none as failed"


def test_cells_share_the_groups_in_which_they_agree() -> None:
    first, second = expand(line_of("seeds=1", "optimizer.lr=0.1,0.2", "multirun=m"))
    assert first.config.split is second.config.split
    assert (first.config.optimizer.lr, second.config.optimizer.lr) == (0.1, 0.2)
    line = line_of("seeds=1", "split.shift={kind:rotate,amount:5},{kind:noise,amount:1}", "multirun=m")
    assert [cell.config.axes()["shift"] for cell in expand(line)] == ["rotate:5", "noise:1"]


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("what", "looks", "shown"),
    [
        (
            "start-up takes 20 s, then ten runs a second",
            {20.0: 1, 20.5: 6, 21.0: 11, 30.0: 101},
            [None, None, 399, 390],
        ),
        ("few slow runs after a start-up", {30.0: 2, 50.0: 4, 60.0: 5}, [None, None, 39950]),
        ("runs of minutes", {600.0: 2, 1200.0: 4}, [1199400, 1198800]),
        (
            "two stored runs at once, then groups that train",
            {2.0: 2, 30.0: 2, 90.0: 27, 100.0: 29},
            [None, None, 13985, 14413],
        ),
        ("no further run for as long as the first took", {10.0: 1, 15.0: 1, 21.0: 1}, [None, None, 83979]),
    ],
)
def test_the_first_estimate_of_the_time_left_does_not_count_start_up(
    what: str, looks: dict[float, int], shown: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("src.progress.time", clock)

    def progress(n_done: int) -> SweepProgress:
        return SweepProgress(n=4000, n_done=n_done, n_open=1, n_waiting=1, counts=[])

    with Display(Console(quiet=True), progress(0)) as display:
        found = []
        for clock.now, n_done in looks.items():
            left = display._seconds_left(progress(n_done), clock.now)
            found.append(None if left is None else round(left))
    assert found == shown, what


def test_a_long_wait_without_news_is_said_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = Clock(), io.StringIO()
    monkeypatch.setattr("src.progress.time", clock)
    waiting = SweepProgress(n=27, n_done=2, n_open=1, n_waiting=0, counts=["runs 2/27"])
    with Display(Console(file=out), waiting) as display:
        for clock.now in range(0, 150, 5):
            display.show(waiting)
        display.show(waiting, last=True)
    assert out.getvalue().splitlines() == ["runs 2/27", "runs 2/27 | 1 min 0 s so far", "runs 2/27 | 2 min 0 s so far"]
