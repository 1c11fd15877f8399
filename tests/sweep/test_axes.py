"""Axes are ordinary Optuna parameters, and stay valid in one study however the grid grows."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from src.sweep.queue.parameters import Distributions


def grow(study: optuna.Study, *grids: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parameters of all trials, after adding grid after grid as the queue does: a study checks each addition."""
    for cells in grids:
        recorded = {name: d for trial in study.get_trials() for name, d in trial.distributions.items()}
        distributions = Distributions(recorded)
        distributions.prepare(cells)
        for axes in cells:
            chosen = distributions.of(axes)
            params = {name: value for name, (value, _) in chosen.items()}
            kinds = {name: kind for name, (_, kind) in chosen.items()}
            study.add_trial(create_trial(state=TrialState.WAITING, params=params, distributions=kinds))
    return [trial.params for trial in study.get_trials()]


def test_numbers_may_leave_the_first_range() -> None:
    study = optuna.create_study()
    assert grow(study, [{"ratio": 0.1}, {"ratio": 1}], [{"ratio": 10}], [{"ratio": 0.5}]) == [
        {"ratio": 0.1},
        {"ratio": 1.0},
        {"ratio": 10.0},
        {"ratio": 0.5},
    ]


def test_one_grid_has_one_distribution_per_axis_so_that_optunas_tools_compare_its_trials() -> None:
    study = optuna.create_study()
    grow(study, [{"ratio": r, "data": "digits"} for r in (0.1, 1, 10)])
    trials = study.get_trials()
    assert all(trial.distributions == trials[0].distributions for trial in trials)
    assert set(trials[0].distributions) == {"ratio", "data"}


def test_known_names_of_architectures_and_data_need_no_further_parameter() -> None:
    study = optuna.create_study()
    assert grow(study, [{"arch": "mlp", "data": "digits"}], [{"arch": "cnn", "data": "mnist"}])[1] == {
        "arch": "cnn",
        "data": "mnist",
    }


def test_a_new_word_goes_to_a_further_parameter_and_old_words_stay_where_they_were() -> None:
    study = optuna.create_study()
    found = grow(study, [{"shift": "none"}], [{"shift": "rotate:30"}, {"shift": "none"}], [{"shift": "rotate:30"}])
    assert found == [{"shift": "none"}, {"shift#2": "rotate:30"}, {"shift": "none"}, {"shift#2": "rotate:30"}]


def test_numbers_and_words_on_one_axis_do_not_collide() -> None:
    study = optuna.create_study()
    found = grow(study, [{"epochs": 5}], [{"epochs": "-"}, {"epochs": 20}], [{"epochs": float("inf")}])
    assert found == [{"epochs": 5.0}, {"epochs#2": "-"}, {"epochs": 20.0}, {"epochs#3": "inf"}]
