"""Progress of a cell: means over its runs at the points of the validation curves that all of them have reached."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from src.training.control import ProgressReport
from src.training.plan import StagePlan
from src.training.result import Curves
from src.training.scoring import validation_curves


def progress_reports(plan: StagePlan, curves: Mapping[str, Curves]) -> list[ProgressReport]:
    """The points of the last stage that every run of a one-regime plan has reached, in order.

    Empty while a run has not begun its last stage and when one has diverged. `curves`: by stage key. Runs count equally
    and are summed in the plan's order, as for the trial's final value.
    """
    assert len({run.regime for run in plan.runs}) == 1, "a mean over regimes means nothing"
    series_of_runs = []
    for run in plan.runs:
        node = plan.nodes[run.stages[-1]]
        if node.key not in curves:
            return []
        own, n_updates = curves[node.key], node.length.updates
        series = validation_curves(node.stream, own)
        shares = [Fraction(int(step), n_updates) for step in own.steps] if n_updates else []
        series_of_runs.append({share: {n: float(series[n][k]) for n in series} for k, share in enumerate(shares)})
    common = [share for share in series_of_runs[0] if all(share in series for series in series_of_runs)]
    first, n_runs = series_of_runs[0], len(series_of_runs)
    return [
        ProgressReport(share, {n: sum(series[share][n] for series in series_of_runs) / n_runs for n in first[share]})
        for share in common
    ]
