"""The verdicts of a sweep as columns of MLflow's tables: short texts to read, numbers to sort and draw by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from src.comparison.tables import independent_axes
from src.comparison.units import unit_of
from src.comparison.verdicts import CellVerdict, by_pair, overall
from src.tracking.record import run_name
from src.tracking.reports import Comparison


def cell_tags(verdicts: Sequence[CellVerdict]) -> dict[str, str]:
    """``difference`` with its interval and ``mean/{regime}`` as texts; with several pairs also the winner of each.

    With seeds=auto ``decided_by``, too.
    """
    tags: dict[str, str] = {}
    for verdict in verdicts:
        unit = unit_of(verdict.metric)
        pair = "" if len(verdicts) == 1 else f"/{verdict.a}-{verdict.b}"
        if verdict.difference is not None:
            tags[f"difference{pair}"] = unit.estimate(verdict.difference, verdict.ci_low, verdict.ci_high)
        if verdict.decided_by:
            tags[f"decided_by{pair}"] = f"{verdict.decided_by}, {verdict.n} seeds"
        if pair:
            tags[f"winner{pair}"] = verdict.winner
        for regime, mean in ((verdict.a, verdict.mean_a), (verdict.b, verdict.mean_b)):
            if mean is not None:
                tags.setdefault(f"mean/{regime}", f"{unit.value(mean)} {unit.of_values}".rstrip())
    return tags


def cell_means(verdicts: Sequence[CellVerdict]) -> dict[str, float]:
    """MLflow metrics ``mean/{regime}/{test}/accuracy``: what `cell_tags` shows, and the same on the other test sets."""
    metrics: dict[str, float] = {}
    for own in (own for verdict in verdicts for own in (verdict, *verdict.elsewhere.values())):
        for regime, mean in ((own.a, own.mean_a), (own.b, own.mean_b)):
            if mean is not None:
                metrics.setdefault(f"mean/{regime}/{own.metric.removeprefix('test/')}", mean)
    return metrics


def sweep_metrics(verdicts: Sequence[CellVerdict]) -> dict[str, float]:
    """MLflow metrics of a sweep: ``wins/{regime}``, and its differences averaged over cells, named like those of a cell."""
    metrics: dict[str, float | None] = {}
    for (a, b), own in by_pair(verdicts).items():
        for regime in (a, b):
            key = f"wins/{regime}"
            metrics[key] = (metrics.get(key) or 0.0) + sum(verdict.winner == regime for verdict in own)
        for name in ("", *own[0].elsewhere):
            of_test = [verdict.elsewhere[name] if name else verdict for verdict in own]
            if (mean := overall(of_test)) is not None:
                key = f"delta/{a}-{b}/{of_test[0].metric.removeprefix('test/')}"
                metrics |= {key: mean.effect, f"{key}/p": mean.p}
                metrics |= {f"{key}/ci_low": mean.ci_low, f"{key}/ci_high": mean.ci_high}
    return {name: value for name, value in metrics.items() if value is not None}


def comparison_of(verdicts: Sequence[CellVerdict]) -> Comparison:
    """What the sweep's saved views show."""
    pairs = by_pair(verdicts)
    largest = max(verdicts, key=lambda verdict: abs(verdict.difference or 0.0))
    return Comparison(
        verdict="; ".join(_counts(own, f"{a} - {b}: " if len(pairs) > 1 else "") for (a, b), own in pairs.items()),
        pairs=list(pairs),
        metric=verdicts[0].metric.removeprefix("test/"),
        higher_is_better=unit_of(verdicts[0].metric).higher_is_better,
        axes=[axis for axis in independent_axes(verdicts) if axis != "cell"],
        largest=(largest.cell, run_name(largest.axes)),
    )


def _counts(verdicts: Sequence[CellVerdict], prefix: str) -> str:
    """``combined 15, sequential 1, undecided 14 of 30 cells``; of a single cell its verdict."""
    winners = Counter(verdict.winner for verdict in verdicts)
    if len(verdicts) == 1:
        return prefix + verdicts[0].winner
    order = sorted(winners, key=lambda winner: (winner not in (verdicts[0].a, verdicts[0].b), -winners[winner], winner))
    return f"{prefix}{', '.join(f'{winner} {winners[winner]}' for winner in order)} of {len(verdicts)} cells"
