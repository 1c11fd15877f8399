"""Early stopping of a search's trials by Optuna's pruners, on the mean over all seeds at tenths of the last stage.

Tenths are common to trials of different lengths: at the same number of epochs a trial of 5 is done and one of 50 has
hardly begun, and the learning-rate schedule depends on the fraction too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.sweep.search.search import Search
from src.training.control import ProgressReport

N_STEPS = 10
PRUNED_AT = "pruned at"
"""The first words of the reason of a trial that a pruner stopped."""


def metric_by_step(progress_reports: Sequence[ProgressReport], metric: str) -> dict[int, float]:
    """The metric at steps 1 to 9, a step being a tenth of the last stage: at the first report within each."""
    values: dict[int, float] = {}
    for report in progress_reports:
        step = int(N_STEPS * report.share)
        if 0 < step < N_STEPS and math.isfinite(report.means[metric]):
            values.setdefault(step, report.means[metric])
    return values


def replay(
    search: Search, points: Sequence[FrozenTrial], point: int, values: Mapping[int, float]
) -> tuple[FrozenTrial, bool]:
    """Reports `values` for trial `point` of `points` from its start; returns it, and whether the pruner stops it.

    A function of its arguments: another worker that repeats the trial of a dead one decides the same.
    """
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage, study_name=search.id, direction=search.objective.goal, pruner=_pruner(search.config.pruner)
    )
    own = points[point]
    begun = create_trial(state=TrialState.RUNNING, params=own.params, distributions=own.distributions)
    study.add_trials([*points[:point], begun, *points[point + 1 :]])
    study_id = storage.get_study_id_from_name(search.id)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, point)
    for step, value in values.items():
        storage.set_trial_intermediate_value(trial_id, step, value)
        if study.pruner.prune(study, storage.get_trial(trial_id)):
            return storage.get_trial(trial_id), True  # the pruner has added to it
    return storage.get_trial(trial_id), False


def prune_reason(trial: FrozenTrial, search: Search) -> str:
    """The reason of a trial that the pruner stops at its last step."""
    step = trial.last_step
    assert step is not None
    text, value = search.objective.text, trial.intermediate_values[step]
    by = f"search.pruner={search.config.pruner}"
    return f"{PRUNED_AT} {step}/{N_STEPS} of its last stage by {by}: {text} was {value:.4g}"


def is_pruned_early(trial: FrozenTrial) -> bool:
    """Whether a pruner stopped the trial; refused and diverged ones are pruned too."""
    return trial.state == TrialState.PRUNED and trial.user_attrs["reason"].startswith(PRUNED_AT)


def _pruner(name: str) -> BasePruner:
    hyperband = optuna.pruners.HyperbandPruner(max_resource=N_STEPS)  # Optuna would guess it from finished trials
    return {"hyperband": hyperband, "median": optuna.pruners.MedianPruner()}[name]
