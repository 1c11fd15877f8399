"""The plots of a search, drawn by Optuna."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from src.comparison.units import Unit
from src.sweep.search.search import Search

FEWEST = 8
"""Trials with a value from which an importance is given; it is a matter of chance with fewer."""


def draw(search: Search, trials: Sequence[FrozenTrial], folder: Path, unit: Unit) -> list[Path]:
    """Draws the values in the order of the trials, against each parameter, and the importance of the parameters."""
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as visualization

    valued = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    study = optuna.create_study(direction=search.objective.goal)
    study.add_trials(trials)
    text = f"{search.objective.text}, {unit.of_values}" if unit.of_values else search.objective.text
    shown: dict[str, Any] = {"target": lambda trial: unit.scale * trial.values[0], "target_name": text}
    plots: dict[str, Callable[[], Any]] = {}
    if valued:
        plots["history"] = lambda: visualization.plot_optimization_history(study, **shown)
        plots["trials"] = lambda: visualization.plot_slice(study, **shown)
    if len(search.space) > 1 and len(valued) >= FEWEST and len({trial.values[0] for trial in valued}) > 1:
        plots["importances"] = lambda: visualization.plot_param_importances(
            study
        )  # for the values that the search wants
    paths = []
    for name, plot in plots.items():
        with warnings.catch_warnings(), plt.style.context("default"):  # Optuna sets a style of its own
            warnings.simplefilter("ignore")  # of experimental plots, and of a single trial
            figure = np.ravel(plot())[0].figure
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=150, bbox_inches="tight")
        plt.close(figure)
    return paths
