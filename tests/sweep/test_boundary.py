"""search=boundary: finds a planted boundary with few seeds, stops when the map is certain, and resumes like any search."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.config import SearchConfig
from src.errors import ConfigError
from src.sweep.folder import SweepFolder
from src.sweep.search.boundary import LEVELS, N_FIRST, Map, map_of, measured, next_visit
from src.sweep.search.plots import boundary_sentences, crossings, write_boundary
from src.sweep.search.trials import Searched, best_text
from tests.sweep.searches import opened, search_of, work

pytestmark = pytest.mark.usefixtures("hydra")
SPACE = {"x": FloatDistribution(1.0, 100.0, log=True), "n": IntDistribution(0, 40)}
OVER = [
    "search=boundary",
    "search.n_trials=12",
    "search.step=3",
    "seeds=9",
    "objective=sequential-combined/val/union/accuracy",
    "optimizer.lr=tag(log,interval(1e-3,0.5))",
    "split.size=int(interval(100,400))",
]
SETTINGS = SearchConfig(name="boundary", n_trials=100, seed=0, pruner="none", step=4, certain=1.0)


def free(where: np.ndarray) -> np.ndarray:
    return np.ones(len(where))


def visit(trials: list[FrozenTrial], *, certain: float = 0.95, most: int = 32, step: int = 4) -> FrozenTrial | None:
    """The next trial, running."""
    found = next_visit(trials, SPACE, free, dataclasses.replace(SETTINGS, step=step, certain=certain), most=most)
    if found is None:
        return None
    return create_trial(
        state=TrialState.RUNNING, params=dict(found.point), distributions=SPACE, user_attrs=dict(found.attributes)
    )


def ended(trial: FrozenTrial) -> FrozenTrial:
    """The trial with differences whose sign changes at n = 10 + 10 log10 x; their deviation grows with x."""
    x, n = trial.params["x"], trial.params["n"]
    noise = np.random.default_rng([round(100 * x), n]).normal(size=trial.user_attrs["n_seeds"])
    differences = np.sqrt(x) * ((n - 10 - 10 * np.log10(x)) / 6 + noise)
    attributes = {**trial.user_attrs, "differences": differences.tolist()}
    shape = {"params": trial.params, "distributions": SPACE, "user_attrs": attributes}
    return create_trial(state=TrialState.COMPLETE, value=float(differences.mean()), **shape)


@pytest.fixture(scope="module")
def found() -> list[FrozenTrial]:
    trials: list[FrozenTrial] = []
    while len(trials) < 40 and (trial := visit(trials, certain=0.85)) is not None:
        trials.append(ended(trial))
    return trials


def test_a_planted_boundary_is_found_and_the_search_ends_when_the_map_is_certain(found: list[FrozenTrial]) -> None:
    assert N_FIRST < len(found) < 40
    here = map_of(measured(found, SPACE), 2)
    assert here.certain >= 0.85
    lines = crossings(here, 2)
    assert len(lines) >= 30
    errors = [abs(40 * at - 10 - 20 * float(other[0])) for other, at, *_ in lines]
    assert np.mean(errors) < 3, "half a standard deviation of a seed"
    held = [low <= (10 + 20 * float(other[0])) / 40 <= high for other, _, low, high in lines]
    assert np.mean(held) >= 0.8
    where = here.where
    truth = 40 * where[:, 1] - 10 - 20 * where[:, 0] > 0
    certain = here.wrong <= 0.05
    assert np.mean((here.mean > 0)[certain] == truth[certain]) > 0.97


def test_visits_go_along_the_boundary(found: list[FrozenTrial]) -> None:
    far = [abs(trial.params["n"] - 10 - 10 * np.log10(trial.params["x"])) for trial in found]
    assert np.mean(far[N_FIRST:]) < 0.6 * np.mean(far[:N_FIRST])


def test_the_expected_share_of_wrong_signs_is_that_of_simulated_measurements(found: list[FrozenTrial]) -> None:
    points = measured(found[:10], SPACE)
    here = map_of(points, 2)
    candidates = here.where[[200, 700]]
    expected = here.expected_wrong(candidates, 4)
    rng = np.random.default_rng(0)
    for candidate, value in zip(candidates, expected, strict=True):
        mean, joint = here.model.predict(np.vstack([candidate, here.where]), return_cov=True)
        gain = joint[0] / (joint[0, 0] + 1 / 4)
        outcomes = rng.normal(0, np.sqrt(joint[0, 0] + 1 / 4), 400)
        deviation = np.sqrt(np.maximum(np.diag(joint) - gain * joint[0], 1e-18))
        simulated = [Map(here.where, (mean + gain * z)[1:], deviation[1:], here.model).wrong.mean() for z in outcomes]
        assert value == pytest.approx(np.mean(simulated), abs=4 * np.std(simulated) / 20)
        assert value < here.wrong.mean()


def test_workers_at_once_go_to_different_points_and_one_point_gets_more_seeds_up_to_all(
    found: list[FrozenTrial],
) -> None:
    trials = found[:12]
    batch: list[FrozenTrial] = []
    for _ in range(3):
        trial = visit([*trials, *batch])
        assert trial is not None
        batch.append(trial)
    assert len({tuple(trial.params.values()) for trial in batch}) == 3
    visits: dict[tuple[float, ...], list[int]] = {}
    every = list(found)
    for _ in range(12):
        trial = visit(every, certain=1.0, most=8)
        assert trial is not None
        every.append(ended(trial))
    for trial in every[len(found) :]:
        visits.setdefault(tuple(trial.params.values()), []).append(trial.user_attrs["n_seeds"])
    assert all(own == sorted(set(own)) and own[-1] <= 8 for own in visits.values())


def test_a_cost_moves_the_visits_to_the_cheaper_side(found: list[FrozenTrial]) -> None:
    cheap_left = next_visit(found[:12], SPACE, lambda where: np.exp(6 * where[:, 0]), SETTINGS, most=32)
    cheap_right = next_visit(found[:12], SPACE, lambda where: np.exp(-6 * where[:, 0]), SETTINGS, most=32)
    assert cheap_left is not None
    assert cheap_right is not None
    assert cheap_left.point["x"] < cheap_right.point["x"]


def test_a_search_resumes_at_the_same_points_and_a_repeated_one_has_none(tmp_path: Path) -> None:
    search = search_of(*OVER, multirun=tmp_path)
    with opened(search, tmp_path / "whole") as queue:
        work(queue)
        whole = list(queue.latest().values())
    for most in (3, 7, 100):
        with opened(search, tmp_path / "cut") as queue:
            work(queue, most)
            cut = list(queue.latest().values())
    assert [trial.params for trial in cut] == [trial.params for trial in whole]
    assert len(whole) == search.limit(SweepFolder(tmp_path / "whole", "s"))
    with opened(search, tmp_path / "whole") as queue:
        assert queue.claim() is None
        assert queue.n_waiting() == 0
    assert {len(trial.user_attrs["differences"]) for trial in whole} <= {3, 6, 9}
    assert best_text(whole, search) == f"{whole[-1].user_attrs['certain']:.0%} of the map certain"


def test_it_ends_early_when_the_map_is_certain(tmp_path: Path) -> None:
    search = search_of(*OVER, "search.certain=0.05", multirun=tmp_path)
    with opened(search, tmp_path) as queue:
        work(queue)
        assert N_FIRST <= len(queue.latest()) < 12
        assert queue.n_waiting() == 0
        assert len(queue.latest()) == search.limit(SweepFolder(tmp_path, "s"))


def test_the_result_is_a_sentence_two_tables_and_a_map(tmp_path: Path) -> None:
    search = search_of(*OVER, multirun=tmp_path)
    with opened(search, tmp_path) as queue:
        work(queue)
        searched = Searched(search, list(queue.latest().values()), tmp_path)
    (text,) = boundary_sentences(searched)
    n = sum(len(point.differences) for point in measured(searched.trials, search.space))
    assert f"{n} seeds, {2 * n} runs" in text
    assert [path.name for path in write_boundary(searched)] == ["map.csv", "boundary.csv", "boundary.png"]
    rows = list(csv.DictReader((tmp_path / "map.csv").open()))
    assert len(rows) == LEVELS[2] ** 2
    assert set(rows[0]) == {"optimizer.lr", "split.size", "effect", "deviation", "wrong"}
    early = Searched(search, searched.trials[:2], tmp_path)
    assert boundary_sentences(early) == [f"2 of at least {N_FIRST} visits have ended: there is no map yet."]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["objective=sequential/val/union/accuracy"], "has no sign; a boundary lies between two regimes"),
        (["split.size=100,200"], r"split\.size=100,200: is no interval; a boundary lies between numbers"),
        (["split.size=100"], "search=boundary: needs two or three axes, not 1"),
        (["search.pruner=median"], r"search\.pruner=median: "),
        (["search.step=1"], r"search\.step=1: "),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        search_of(*OVER, *words, multirun=tmp_path)
