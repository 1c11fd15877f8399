"""When a trial of a search is cut short: Optuna's pruners, asked with the mean over all seeds at tenths of the last stage.

Tenths of its own way are what trials of different lengths have in common: at the same number of epochs one of 5 is done
and one of 50 has hardly begun, and the schedule of the learning rate goes by the share too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.sweep.search.search import Search
from src.training.control import ProgressReport

TENTHS = 10
CUT = "pruned at"
"""How the reason of a trial begins that a pruner has cut short."""


def way_of(progress_reports: Sequence[ProgressReport], metric: str) -> dict[int, float]:
    """The metric by the tenths of the last stage that are done, 1 to 9: each at the first point in it that there is."""
    way: dict[int, float] = {}
    for point in progress_reports:
        tenth = int(TENTHS * point.share)
        if 0 < tenth < TENTHS and math.isfinite(point.means[metric]):
            way.setdefault(tenth, point.means[metric])
    return way


def follow(
    search: Search, trials: Sequence[FrozenTrial], number: int, way: Mapping[int, float]
) -> tuple[FrozenTrial, bool]:
    """The trial `number` of all `trials`, gone `way` from its start, and whether the pruner ends it where it then is.

    A function of its arguments: whatever a worker that died had noted of the trial, another one decides the same.
    """
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage, study_name=search.id, direction=search.objective.goal, pruner=_pruner(search.config.pruner)
    )
    own = trials[number]
    begun = create_trial(state=TrialState.RUNNING, params=own.params, distributions=own.distributions)
    study.add_trials([*trials[:number], begun, *trials[number + 1 :]])
    trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    for step, value in way.items():
        storage.set_trial_intermediate_value(trial_id, step, value)
        if study.pruner.prune(study, storage.get_trial(trial_id)):
            return storage.get_trial(trial_id), True
    return storage.get_trial(trial_id), False


def why(trial: FrozenTrial, search: Search) -> str:
    """The reason of a trial that ends where it is."""
    step = trial.last_step
    assert step is not None
    text, value = search.objective.text, trial.intermediate_values[step]
    return f"{CUT} {step}/{TENTHS} of its last stage by search.pruner={search.config.pruner}: {text} was {value:.4g}"


def is_cut(trial: FrozenTrial) -> bool:
    """Whether a pruner has cut the trial short; others are pruned that are refused or diverge."""
    return trial.state == TrialState.PRUNED and trial.user_attrs["reason"].startswith(CUT)


def _pruner(name: str) -> BasePruner:
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=TENTHS)  # else a guess, from what trials have told
    assert name == "median", name
    return optuna.pruners.MedianPruner()
