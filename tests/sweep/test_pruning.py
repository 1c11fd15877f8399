"""A pruner cuts poor trials short by the mean over all seeds, loses nothing of them, and decides the same after a kill.

The real engine trains tiny cells; the rules are compared with Optuna itself on invented values.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import cast

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
from optuna.trial import FrozenTrial

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.errors import Pruned
from src.sweep import laboratory
from src.sweep.engine import Engine
from src.sweep.folder import SweepFolder
from src.sweep.processes import Process
from src.sweep.search import trials as trials_module
from src.sweep.search.pruning import is_pruned_early, metric_by_step
from src.sweep.search.search import Search
from src.sweep.search.trials import TrialQueue, best_first
from src.sweep.search.work import make_search
from src.sweep.workers.worker import StopRequest, Worker
from src.training.control import ProgressReport
from src.training.store.store import Store
from tests.sweep import fake_engine
from tests.sweep.searches import line_of

pytestmark = pytest.mark.usefixtures("hydra")

METRIC = "val/union/accuracy"
ASKED = [
    *("search=random", "search.n_trials=8", "search.seed=3", f"objective=sequential/{METRIC}", "regimes=[sequential]"),
    *("sweep=s", "seeds=2", "split.size=60", "arch.widths=[5]", "trainer=cpu", "tracking=off"),
    *("optimizer.lr=tag(log,interval(1e-3,1))", "stopping.epochs=range(4,7)"),
]


def search_of(multirun: Path, *overrides: str, engine: ModuleType = laboratory) -> Search:
    return make_search(line_of(*ASKED, *overrides, f"multirun={multirun}"), cast(Engine, engine))[0]


@contextmanager
def opened(
    search: Search, multirun: Path, engine: ModuleType = laboratory
) -> Iterator[tuple[TrialQueue, Process, SweepFolder]]:
    folder = SweepFolder(multirun, "s")
    search.save(folder)
    with Process(folder, "worker") as process:
        folder.write_queue(None)
        queue = TrialQueue(folder, process, search.id, engine.__name__)
        try:
            yield queue, process, folder
        finally:
            queue.close()


class StopAt(StopRequest):
    """Requests a stop from the n-th call on."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n_left = n

    def is_set(self) -> bool:
        self.n_left -= 1
        return self.n_left <= 0


def work(search: Search, multirun: Path, stop: StopRequest | None = None) -> list[FrozenTrial]:
    """Resume the cells of dead workers as a worker does; return the trials."""
    with opened(search, multirun) as (queue, process, _):
        queue.requeue_stale()
        Worker(process, laboratory.__name__, stop or StopRequest()).work(queue)
        return list(queue.latest().values())


def reported(trials: Sequence[FrozenTrial]) -> list[tuple[object, ...]]:
    return [(t.state.name, t.params, t.values, t.intermediate_values, t.user_attrs.get("reason")) for t in trials]


@dataclass(frozen=True)
class Both:
    """The same points with a pruner, and without."""

    search: Search
    trials: list[FrozenTrial]
    multirun: Path
    whole: list[FrozenTrial]
    whole_multirun: Path


@pytest.fixture(scope="module")
def both(hydra: None, tmp_path_factory: pytest.TempPathFactory) -> Both:
    del hydra
    root = tmp_path_factory.mktemp("both")
    search = search_of(root / "pruned", "search.pruner=median")
    trials = work(search, root / "pruned")
    whole = work(search_of(root / "whole"), root / "whole")
    assert [trial.params for trial in trials] == [trial.params for trial in whole]
    return Both(search, trials, root / "pruned", whole, root / "whole")


def way_on_disk(trial: FrozenTrial, multirun: Path) -> dict[int, float]:
    """The mean over the seeds at the first point in each tenth of the last stage, from the curves of finished runs."""
    seeds = []
    for folder in (multirun / "s/cells" / trial.user_attrs["cell"] / f"sequential-{seed}" for seed in (0, 1)):
        first, last = json.loads((folder / "result.json").read_text())["result"]["stages"]
        rows = pq.read_table(folder / "history.parquet").to_pylist()
        curve = [(r["step"], r["value"]) for r in rows if r["stage"] == 1 and r["name"] == METRIC]
        seeds.append([(10 * (step - first["updates"]) / last["updates"], value) for step, value in curve])
    way: dict[int, float] = {}
    for (tenths, a), (_, b) in zip(*seeds, strict=True):
        if 1 <= tenths < 10:
            way.setdefault(int(tenths), (a + b) / 2)
    return way


def test_the_median_rule_ends_trials_by_the_means_of_the_recorded_curves(both: Both) -> None:
    """An independent statement of the rule: the best value so far against the median of the finished trials at that step."""
    finished: list[dict[int, float]] = []
    n_cut = 0
    for trial, whole in zip(both.trials, both.whole, strict=True):
        way, expected, is_poor = way_on_disk(whole, both.whole_multirun), {}, False
        assert len(way) >= 3
        for step, value in way.items():
            expected[step] = value
            others = [other[step] for other in finished if step in other]
            is_poor = len(finished) >= 5 and bool(others) and max(expected.values()) < np.median(others)
            if is_poor:
                break
        assert trial.intermediate_values == expected, "bit for bit"
        assert trial.state.name == ("PRUNED" if is_poor else "COMPLETE")
        assert is_pruned_early(trial) == is_poor
        if is_poor:
            n_cut += 1
            assert trial.user_attrs["reason"].startswith(
                f"pruned at {step}/10 of its last stage by search.pruner=median"
            )
        else:
            assert trial.values == whole.values
            finished.append(expected)
    assert 0 < n_cut < 4


def test_the_best_trial_is_that_of_the_whole_search(both: Both) -> None:
    best, whole = (best_first(trials, both.search)[0] for trials in (both.trials, both.whole))
    assert (best.params, best.values) == (whole.params, whole.values)


def test_the_repeated_command_adds_nothing(both: Both, tmp_path: Path) -> None:
    shutil.copytree(both.multirun, tmp_path / "m")
    with opened(both.search, tmp_path / "m") as (queue, _, _):
        queue.retry_failed()
        assert queue.n_waiting() == 0
        assert queue.claim() is None
        assert reported(queue.trials()) == reported(both.trials)


def test_a_grid_resumes_pruned_cells(both: Both, tmp_path: Path) -> None:
    shutil.copytree(both.multirun, tmp_path / "m")
    search = search_of(tmp_path / "m", "search.pruner=median")
    for trial in filter(is_pruned_early, both.trials):
        config = search.cell(trial.params).config
        cell = resolve(config).folder
        assert cell.name == trial.user_attrs["cell"]
        assert len(resolve(config).missing_runs()) == 2
        assert not list(cell.glob("sequential-*")), "nothing for MLflow either: nothing ended"
        parts = list((tmp_path / "m/.stages").rglob("*.part.safetensors"))
        assert len(parts) >= 2
        assert all(Store(p.parents[1]).resume_point(p.name.partition(".")[0]).updates > 0 for p in parts)  # type: ignore[union-attr]
        assert run_cell(resolve(config)).failures == ()
        for folder in cell.glob("sequential-*"):
            other = both.whole_multirun / "s/cells" / cell.name / folder.name
            mine, whole = (json.loads((f / "result.json").read_text())["result"] for f in (folder, other))
            assert mine == whole
            assert pq.read_table(folder / "history.parquet").equals(pq.read_table(other / "history.parquet"))
    assert not list((tmp_path / "m/.stages").rglob("*.part.safetensors"))


class KilledError(BaseException):
    """The worker has died without a message."""


def test_a_worker_that_stops_or_dies_after_its_decision_changes_nothing(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> str:
        raise KilledError

    search = search_of(tmp_path, "search.pruner=median")
    left = [trial for n in (9, 10, 11) for trial in work(search, tmp_path, StopAt(n)) if trial.state.name == "WAITING"]
    assert any(trial.intermediate_values for trial in left), "interrupted within the last stage"
    with monkeypatch.context() as patch:
        patch.setattr(trials_module, "prune_reason", killed)  # when all is noted
        with pytest.raises(KilledError):
            work(search, tmp_path)
    assert reported(work(search, tmp_path)) == reported(both.trials)


# ------------------------------------------------------------------------------------------------ Optuna's rules


def made_up(lr: float, tenth: int) -> float:
    """Values of a trial by step: better near lr = 0.1, rising faster with larger lr."""
    return 1 - abs(math.log10(lr) + 1) / 3 + tenth * lr / 10


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_the_decisions_are_optunas(pruner: str, tmp_path: Path) -> None:
    """Compared with Optuna's own loop; hyperband assigns brackets by the name of the study, so both share it.

    Every second trial's worker dies when it has decided, and another one takes it up.
    """
    search = search_of(tmp_path, f"search.pruner={pruner}", "search.n_trials=14", engine=fake_engine)
    cls = {"median": optuna.pruners.MedianPruner, "hyperband": optuna.pruners.HyperbandPruner}[pruner]
    options = {"max_resource": 10} if pruner == "hyperband" else {}
    theirs = optuna.create_study(study_name=search.id, direction="maximize", pruner=cls(**options))
    with opened(search, tmp_path, fake_engine) as (queue, _, _):
        while claim := queue.claim():
            lr = queue.trials()[-1].params["optimizer.lr"]
            theirs.enqueue_trial({"optimizer.lr": lr})
            trial = theirs.ask({"optimizer.lr": search.space["optimizer.lr"]})
            way: list[ProgressReport] = []
            ended = False
            on_progress = queue.on_progress(claim)
            assert on_progress is not None
            for tenth in range(1, 10, 2):
                way.append(ProgressReport(Fraction(tenth, 10), {METRIC: made_up(lr, tenth)}))
                trial.report(made_up(lr, tenth), tenth)
                ended = trial.should_prune()
                try:
                    on_progress(way)
                except Pruned as reason:
                    if trial.number % 2:
                        again = queue.on_progress(claim)
                        assert again is not None
                        with pytest.raises(Pruned, match=f"pruned at {tenth}/10"):
                            again(way)
                    queue.complete_without_value(claim, str(reason))
                    assert ended
                    break
                assert not ended
            else:
                queue.complete(claim, made_up(lr, 10))
            theirs.tell(trial, None if ended else made_up(lr, 10), optuna.trial.TrialState.PRUNED if ended else None)
        mine = queue.trials()
    assert [(t.state, t.intermediate_values) for t in mine] == [(t.state, t.intermediate_values) for t in theirs.trials]
    assert [t.system_attrs.keys() for t in mine] == [
        {key for key in t.system_attrs if key.startswith("completed_rung")} for t in theirs.trials
    ]
    assert 3 < sum(map(is_pruned_early, mine)) < 12


def test_each_step_is_the_first_point_of_a_tenth_and_excludes_both_ends() -> None:
    shares = [Fraction(k, 16) for k in range(1, 17)]
    points = [ProgressReport(share, {METRIC: float(k)}) for k, share in enumerate(shares, start=1)]
    assert metric_by_step(points, METRIC) == {
        1: 2.0,
        2: 4.0,
        3: 5.0,
        4: 7.0,
        5: 8.0,
        6: 10.0,
        7: 12.0,
        8: 13.0,
        9: 15.0,
    }
    assert metric_by_step([ProgressReport(Fraction(1, 2), {METRIC: float("nan")})], METRIC) == {}
