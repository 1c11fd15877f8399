"""The verdicts of a sweep as columns of MLflow's tables: short texts to read, numbers to sort and draw by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from src.comparison.families import pairs_of
from src.comparison.pairing import Records, RunRecord
from src.comparison.sentences import overall
from src.comparison.tables import independent_axes, no_worse_text
from src.comparison.units import unit_of
from src.comparison.verdicts import CellVerdict, Rules, by_pair, default_metric, elsewhere_of, judge
from src.tracking.record import run_name
from src.tracking.reports import SweepComparison


def cell_tags(verdicts: Sequence[CellVerdict]) -> dict[str, str]:
    """``difference`` with its interval and ``mean/{regime}`` as texts; with several pairs also the winner of each.

    ``difference/d1``, ``.../d2`` and ``.../balanced`` are the differences on the other test sets with their winners.
    With seeds=auto ``decided_by``, with a margin ``no_worse``, too.
    """
    tags: dict[str, str] = {}
    for verdict in verdicts:
        unit = unit_of(verdict.metric)
        pair = "" if len(verdicts) == 1 else f"/{verdict.a}-{verdict.b}"
        if verdict.difference is not None:
            points = f"{unit.difference(verdict.difference)} {unit.of_differences}".rstrip()
            interval = "" if verdict.ci_low is None else f" {unit.interval(verdict.ci_low, verdict.ci_high)}"
            tags[f"difference{pair}"] = points + interval
        for name, own in verdict.elsewhere.items():
            if own.difference is not None:
                tags[f"difference{pair}/{name}"] = f"{unit_of(own.metric).difference(own.difference)} ({own.winner})"
        if verdict.decided_by:
            tags[f"decided_by{pair}"] = f"{verdict.decided_by}, {verdict.n} seeds"
        if verdict.margin is not None:
            tags[f"no_worse{pair}"] = no_worse_text(verdict)
        if pair:
            tags[f"winner{pair}"] = verdict.winner
        for regime, mean in ((verdict.a, verdict.mean_a), (verdict.b, verdict.mean_b)):
            if mean is not None:
                tags.setdefault(f"mean/{regime}", f"{unit.value(mean)} {unit.of_values}".rstrip())
    return tags


def cell_metrics(
    runs: Iterable[RunRecord],
    regimes: Sequence[str],
    known: Sequence[CellVerdict] = (),
) -> dict[str, float]:
    """MLflow metrics of one cell: ``delta/{a}-{b}/{test}/accuracy`` with ``/ci_low``, ``/ci_high`` and ``/p``.

    The union has ``balanced_accuracy`` too. A regression has ``risk`` or ``loss`` in place of accuracy. p is
    uncorrected, because a cell in the tracker belongs to no family. Undefined values are left out. `known`: the cell's
    verdicts in its family, whose difference, interval and uncorrected p are the same; what they lack is judged here.
    """
    records = Records(runs=tuple(runs))
    assert len({run.cell for run in records.runs}) <= 1
    if not records.runs:
        return {}
    any_stop = known[0].any_stop if known else None
    given = {(own.metric, own.a, own.b): own for verdict in known for own in (verdict, *verdict.elsewhere.values())}
    metrics: dict[str, float | None] = {}
    metric = default_metric(records.runs)
    for name in (*elsewhere_of(metric).values(), metric):
        verdicts = [own for a, b in pairs_of(regimes) if (own := given.get((name, a, b))) and own.any_stop == any_stop]
        if len(verdicts) < len(pairs_of(regimes)):
            verdicts = judge(records, regimes, name, undeclared=Rules(any_stop=any_stop))
        for verdict in verdicts:
            key = f"delta/{verdict.a}-{verdict.b}/{name.removeprefix('test/')}"
            metrics |= {key: verdict.difference, f"{key}/ci_low": verdict.ci_low}
            metrics |= {f"{key}/ci_high": verdict.ci_high, f"{key}/p": verdict.p}
            metrics |= {f"{key}/seeds": verdict.n} if any_stop is not None else {}
    return {name: value for name, value in metrics.items() if value is not None}


def cell_means(verdicts: Sequence[CellVerdict]) -> dict[str, float]:
    """MLflow metrics ``mean/{regime}/{test}/accuracy``: what `cell_tags` shows, and the same on the other test sets."""
    metrics: dict[str, float] = {}
    for own in (own for verdict in verdicts for own in (verdict, *verdict.elsewhere.values())):
        for regime, mean in ((own.a, own.mean_a), (own.b, own.mean_b)):
            if mean is not None:
                metrics.setdefault(f"mean/{regime}/{own.metric.removeprefix('test/')}", mean)
    return metrics


def sweep_metrics(verdicts: Sequence[CellVerdict]) -> dict[str, float]:
    """MLflow metrics of a sweep: ``wins/{regime}``, and its differences averaged over cells, named as in a cell."""
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


def comparison_of(verdicts: Sequence[CellVerdict]) -> SweepComparison:
    """What the sweep's saved views show."""
    pairs = by_pair(verdicts)
    largest = max(verdicts, key=lambda verdict: abs(verdict.difference or 0.0))
    return SweepComparison(
        verdict="; ".join(_counts(own, f"{a} - {b}: " if len(pairs) > 1 else "") for (a, b), own in pairs.items()),
        pairs=list(pairs),
        metric=verdicts[0].metric.removeprefix("test/"),
        higher_is_better=unit_of(verdicts[0].metric).higher_is_better,
        axes=[axis for axis in independent_axes(verdicts) if axis != "cell"],
        largest=(largest.cell, run_name(largest.axes)),
        elsewhere=list(dict.fromkeys(name for verdict in verdicts for name in verdict.elsewhere)),
    )


def _counts(verdicts: Sequence[CellVerdict], prefix: str) -> str:
    """``combined 15, sequential 1, undecided 14 of 30 cells``; of a single cell its verdict."""
    winners = Counter(verdict.winner for verdict in verdicts)
    if len(verdicts) == 1:
        return prefix + verdicts[0].winner
    order = sorted(winners, key=lambda winner: (winner not in (verdicts[0].a, verdicts[0].b), -winners[winner], winner))
    return f"{prefix}{', '.join(f'{winner} {winners[winner]}' for winner in order)} of {len(verdicts)} cells"
