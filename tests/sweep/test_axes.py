"""A cell's axes are parameters of one Optuna study, however the grid grows."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from src.sweep.queue.storage import Parameters


@pytest.fixture
def study() -> optuna.Study:
    """On a database, which checks each addition."""
    return optuna.create_study(storage="sqlite:///:memory:")


def grow(study: optuna.Study, *grids: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parameters of all trials after adding grid after grid as the queue does."""
    for cells in grids:
        parameters = Parameters(cells, study.get_trials())
        study.add_trials([create_trial(state=TrialState.WAITING, **parameters.of(axes)) for axes in cells])
    return [trial.params for trial in study.get_trials()]


def test_numbers_may_leave_the_first_range(study: optuna.Study) -> None:
    grids = [{"ratio": 0.1}, {"ratio": 1}], [{"ratio": 10}], [{"ratio": 0.5}]
    assert grow(study, *grids) == [{"ratio": 0.1}, {"ratio": 1.0}, {"ratio": 10.0}, {"ratio": 0.5}]


def test_the_trials_of_a_grid_share_the_distributions_of_the_axes_in_which_they_differ(study: optuna.Study) -> None:
    grow(study, [{"ratio": r, "data": "digits"} for r in (0.1, 1, 10)])
    trials = study.get_trials()
    assert all(trial.distributions == trials[0].distributions for trial in trials)
    assert set(trials[0].distributions) == {"ratio"}


def test_a_single_cell_has_all_axes(study: optuna.Study) -> None:
    assert grow(study, [{"ratio": 1, "data": "digits"}]) == [{"ratio": 1.0, "data": "digits"}]


def test_a_new_text_value_is_omitted_from_the_parameters(study: optuna.Study) -> None:
    found = grow(study, [{"shift": "none"}, {"shift": "noise"}], [{"shift": "rotate"}, {"shift": "none"}])
    assert found == [{"shift": "none"}, {"shift": "noise"}, {}, {"shift": "none"}]


def test_numbers_and_text_on_one_axis_do_not_collide(study: optuna.Study) -> None:
    found = grow(study, [{"epochs": 5}], [{"epochs": "-"}, {"epochs": 20}], [{"epochs": float("inf")}])
    assert found == [{"epochs": 5.0}, {}, {"epochs": 20.0}, {}]
