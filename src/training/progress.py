"""How far the runs of a cell have come on the way: the mean over them at the points that all have passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

from src.training.control import OnProgress, ProgressReport
from src.training.plan import Plan
from src.training.result import Curves
from src.training.scoring import validation_curves


def report_progress(on_progress: OnProgress, plan: Plan) -> Callable[[Mapping[str, Curves]], None]:
    """What tells `on_progress` of the progress_reports, for `execute`."""
    return lambda curves: on_progress(progress_reports(plan, curves))


def progress_reports(plan: Plan, curves: Mapping[str, Curves]) -> list[ProgressReport]:
    """The points of the last stage that every run of the plan has passed, in their order; none while a run has not begun
    its last stage, or when one has diverged. The plan's runs are those of one regime.

    `curves`: of stages by their keys. Runs are weighed alike and added in the plan's order, as the trial's value is.
    """
    assert len({run.regime for run in plan.runs}) == 1, "a mean over regimes means nothing"
    ways = []
    for run in plan.runs:
        node = plan.nodes[run.stages[-1]]
        if node.key not in curves:
            return []
        own = curves[node.key]
        shares = [Fraction(int(step), node.length.updates) for step in own.steps] if node.length.updates else []
        series = validation_curves(node.stream, own)
        ways.append({share: {name: float(series[name][k]) for name in series} for k, share in enumerate(shares)})
    first, *others = ways
    return [
        ProgressReport(share, {name: sum(way[share][name] for way in ways) / len(ways) for name in figures})
        for share, figures in first.items()
        if all(share in other for other in others)
    ]
