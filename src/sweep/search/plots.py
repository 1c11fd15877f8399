"""The plot of a search: the values in the order of the trials, then against each parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from src.comparison.units import Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (3.6, 3.2)
"""Width and height of a panel in inches."""
PER_ROW = 4
DOT, BEST, WITHOUT = "#542788", "#b35806", "#8c8c8c"
FEWEST = 8
"""Trials with a value from which an importance is given; it is a matter of chance with fewer."""


def trials_figure(
    trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution], *, maximised: bool, name: str, unit: Unit
) -> Figure:
    """The trials of one search in the order of their points. `name`: what the values are, shown in `unit`.

    Trials without a value (pruned, failed) are crosses at the lower edge.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_panels = 1 + len(space)
    n_wide = min(PER_ROW, n_panels)
    n_high = -(-n_panels // n_wide)
    figure = Figure(figsize=(n_wide * PANEL[0], n_high * PANEL[1] + 0.3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(n_high, n_wide, squeeze=False, sharey=True).ravel()
    for spare in panels[n_panels:]:
        spare.set_visible(False)
    _dots(panels[0], range(len(trials)), trials, unit, maximised=maximised)
    valued = {x: unit.scale * t.values[0] for x, t in enumerate(trials) if t.state == TrialState.COMPLETE}
    so_far = list(accumulate(valued.values(), max if maximised else min))
    panels[0].step(list(valued), so_far, where="post", color=BEST, linewidth=1.2, zorder=1)
    panels[0].set_xlabel("trial (line: the best so far)")
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    important = importances(trials, space, maximised=maximised)
    for panel, (key, distribution) in zip(panels[1:], space.items(), strict=False):
        values = [trial.params[key] for trial in trials]
        if isinstance(distribution, CategoricalDistribution):
            values = [distribution.choices.index(value) for value in values]
            panel.set_xticks(range(len(distribution.choices)), [str(choice) for choice in distribution.choices])
            panel.set_xlim(-0.5, len(distribution.choices) - 0.5)
        elif getattr(distribution, "log", False):
            panel.set_xscale("log")
        _dots(panel, values, trials, unit, maximised=maximised)
        panel.set_xlabel(f"{key} (importance {important[key]:.2f})" if key in important else key)
    for row in panels[::n_wide]:
        row.set_ylabel(f"{name}, {unit.of_values}" if unit.of_values else name, wrap=True)
    return figure


def importances(
    trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution], *, maximised: bool
) -> dict[str, float]:
    """Optuna's estimate of each parameter's share in the variation of the values; empty if there are too few trials."""
    valued = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len(space) < 2 or len(valued) < FEWEST or len({trial.values[0] for trial in valued}) < 2:
        return {}
    study = optuna.create_study(direction="maximize" if maximised else "minimize")
    study.add_trials(valued)
    return optuna.importance.get_param_importances(study)


def _dots(panel: Axes, xs: Sequence[float], trials: Sequence[FrozenTrial], unit: Unit, *, maximised: bool) -> None:
    """A dot for each trial with a value, the best in another colour, and a cross below for each without."""
    pairs = list(zip(xs, trials, strict=True))
    valued = [(x, unit.scale * trial.values[0]) for x, trial in pairs if trial.state == TrialState.COMPLETE]
    lost = [(x, 0.02) for x, trial in pairs if trial.state != TrialState.COMPLETE]
    if valued:
        best = (max if maximised else min)(valued, key=lambda pair: pair[1])
        panel.scatter([x for x, _ in valued], [y for _, y in valued], s=16, color=DOT, alpha=0.7, zorder=2)
        panel.scatter(*best, s=60, color=BEST, marker="*", zorder=3)
    if lost:
        at_edge = panel.get_xaxis_transform()
        panel.plot(*zip(*lost, strict=True), "x", color=WITHOUT, markersize=5, transform=at_edge, zorder=2)
    panel.grid(alpha=0.3)
    panel.tick_params(labelsize=8)
