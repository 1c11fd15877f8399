"""ResumePoint of a cell: means over its runs at the points of the validation curves that all of them have reached."""

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
        own = curves[node.key]
        shares = [Fraction(int(step), node.length.updates) for step in own.steps] if node.length.updates else []
        series = validation_curves(node.stream, own)
        series_of_runs.append(
            {share: {name: float(series[name][k]) for name in series} for k, share in enumerate(shares)}
        )
    first, *others = series_of_runs
    return [
        ProgressReport(
            share, {name: sum(own[share][name] for own in series_of_runs) / len(series_of_runs) for name in means}
        )
        for share, means in first.items()
        if all(share in other for other in others)
    ]
