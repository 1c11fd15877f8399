"""The answer: what is measured and predicted of every candidate, its cost, the decision, and what would settle an open
one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from src.advise.arrivals import ACTIONS, NOTHING, RETRAIN, Outlook, Schedule
from src.advise.costs import Cost
from src.advise.curves import Curve, forecast
from src.advise.decision import Decision, decide
from src.advise.pilot import CannotSay, Pilot
from src.advise.question import Question
from src.comparison.pairing import RunRecord
from src.comparison.statistics import Floats
from src.comparison.units import unit_of

INTERVAL = (5, 95)
"""Percentiles of a 90 % interval."""
ALMOST = 0.9
"""Share of the data from which all of them are trained on: a measured value needs no forecast."""


@dataclass(frozen=True, kw_only=True)
class Advised:
    """One candidate. Values are in points of the metric, or in the metric's own unit if it is a loss.

    Attributes:
        now: Measured on the largest subset of `now_size` samples.
        predicted, low, high: At full size, with a 90 % interval.
        cost: Of training it once at full size. `again`: of the same when the model of Dataset 1 exists.
        net: Expected value less cost; None without `value.point`.
        families: Weight of each family of learning curves.
    """

    label: str
    settings: str
    now: float
    now_size: int
    predicted: float
    low: float
    high: float
    cost: Cost
    again: Cost
    p_best: float
    regret: float
    net: float | None
    families: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NextRuns:
    """Runs that would settle the question: `candidates` on a `fraction` of the data, at these seeds."""

    candidates: tuple[int, ...]
    fraction: float
    seeds: tuple[int, ...]
    seconds: float
    money: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Everything that is shown. `candidates` are those with a prediction, best first; `left_out`: label -> why."""

    question: Question
    decision: Decision
    candidates: Sequence[Advised]
    left_out: Mapping[str, str]
    next_runs: NextRuns | None
    margin: float
    sizes: tuple[int, ...]
    share: float
    """Training of the pilot as a share of training all candidates in full."""
    seconds_per_update: float
    remarks: tuple[str, ...] = ()
    schedule: Schedule | None = None
    """What to do as batches arrive, if that was asked."""

    @property
    def choice(self) -> Advised:
        return self.candidates[self.decision.choice]

    @property
    def second(self) -> Advised:
        return self.candidates[self.decision.second]


def serving_value(run: RunRecord, pilot: Pilot) -> float | None:
    """The run's metric on the serving mix; None if it diverged or the metric is undefined there.

    The union is that of the full sizes, also where a subset has another ratio.
    """
    question, sizes, mix = pilot.question, pilot.sizes, dict(pilot.question.mix())
    if question.metric != "balanced_accuracy" and (union := mix.pop("union", 0.0)):
        for number, n in enumerate(sizes, start=1):
            mix[f"d{number}"] = mix.get(f"d{number}", 0.0) + union * n / sum(sizes)
    values = {name: run.metric(f"test/{name}/{question.metric}") for name, share in mix.items() if share}
    if run.diverged or any(value is None for value in values.values()):
        return None
    return sum(mix[name] * value for name, value in values.items() if value is not None)


def curves_of(pilot: Pilot) -> tuple[dict[int, Curve], dict[str, str]]:
    """The curve of each candidate that trained everywhere, and why the others are left out."""
    question, curves, left_out = pilot.question, {}, {}
    for number, regime in enumerate(pilot.full.config.regimes):
        sizes = sorted(size for size, candidate in pilot.measured if candidate == number)
        runs = [pilot.measured[size, number] for size in sizes]
        values = [[serving_value(run, pilot) for run in own] for own in runs]
        n_diverged = sum(run.diverged for own in runs for run in own)
        n, n_missing = sum(map(len, runs)), sum(value is None for own in values for value in own) - n_diverged
        expected = len(pilot.full.config.seeds)
        if n_diverged:
            left_out[regime.label] = f"{n_diverged} of {n} runs diverged; lower optimizer.lr, or narrow tune.space"
        elif n_missing:
            left_out[regime.label] = f"{question.metric} on {question.served} is undefined in {n_missing} of {n} runs"
        elif not runs or any(len(own) < expected for own in runs):
            left_out[regime.label] = "some of its runs failed"
        else:
            scores = np.full((len(sizes), max(map(len, values))), np.nan)
            for row, own in zip(scores, values, strict=True):
                row[: len(own)] = own
            errors = scores if question.is_error else 1 - scores
            curves[number] = Curve(sizes=sizes, errors=errors, monotone=_is_monotone(pilot, number))
    return curves, left_out


def points_of(errors: Floats, question: Question) -> Floats:
    """Errors as values of which more is better: a loss with the other sign, a rate in points."""
    if question.is_error:
        return -errors
    return unit_of(question.metric).scale * (1 - np.minimum(errors, 1.0))


def _is_monotone(pilot: Pilot, number: int) -> bool:
    """Whether more data cannot hurt in expectation: one stage, and it trains on what is served."""
    stages = pilot.full.config.regimes[number].stages(2)
    return len(stages) == 1 and stages[0].mixture.parts == (0, 1) and set(pilot.question.mix()) == {"union"}


def advise(pilot: Pilot, remarks: Sequence[str]) -> Answer:
    """The answer from what the pilot measured. Raises CannotSay if fewer than two candidates trained."""
    question, (curves, left_out) = pilot.question, curves_of(pilot)
    if len(curves) < 2:
        reasons = "; ".join(f"{label}: {why}" for label, why in left_out.items())
        raise CannotSay(f"fewer than two candidates trained ({reasons})")
    found = forecast(list(curves.values()), sum(pilot.sizes))
    points = points_of(found.draws, question)
    costs = [pilot.cost(k, paid=question.checkpoint is not None) for k in curves]
    worth, margin = question.value.point, question.margin_at(float(points.mean(axis=0).max()))
    values = points if worth is None else worth * points - np.array([cost.money for cost in costs])
    order = sorted(range(len(curves)), key=lambda i: -float(values[:, i].mean()))
    numbers = [list(curves)[i] for i in order]  # of the candidates, best first
    ordered, seconds = np.take(values, order, axis=1), [costs[i].seconds for i in order]
    decision = decide(ordered, seconds, margin if worth is None else worth * margin)

    def advised(place: int, i: int, k: int) -> Advised:
        mean, (low, high) = float(points[:, i].mean()), np.percentile(points[:, i], INTERVAL)
        now, knobs = float(curves[k].means[-1]), pilot.chosen[k].knobs
        shown = (f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in knobs)
        return Advised(
            label=pilot.full.config.regimes[k].label,
            settings=" ".join(shown),
            now=now if question.is_error else unit_of(question.metric).scale * (1 - now),
            now_size=curves[k].sizes[-1],
            predicted=abs(mean) if question.is_error else mean,
            low=float(-high if question.is_error else low),
            high=float(-low if question.is_error else high),
            cost=costs[i],
            again=pilot.cost(k, paid=True),
            p_best=decision.p_best[place],
            regret=decision.regret[place],
            net=None if worth is None else float(values[:, i].mean()),
            families=found.weights[i],
        )

    next_runs = None
    if decision.contenders:
        next_runs = _next_runs(pilot, [numbers[i] for i in decision.contenders], curves)
    return Answer(
        question=question,
        decision=decision,
        candidates=[advised(place, i, k) for place, (i, k) in enumerate(zip(order, numbers, strict=True))],
        left_out=left_out,
        next_runs=next_runs,
        margin=margin,
        sizes=pilot.sizes,
        share=pilot.account.share,
        seconds_per_update=pilot.rates.seconds,
        remarks=tuple(remarks),
    )


def _next_runs(pilot: Pilot, contenders: Sequence[int], curves: Mapping[int, Curve]) -> NextRuns:
    """The contenders on twice the data; at full size, on twice the seeds."""
    full, seeds = sum(pilot.sizes), pilot.full.config.seeds
    reached = min(curves[k].sizes[-1] for k in contenders) / full
    if reached >= 1:
        n = max(curves[k].errors.shape[1] for k in contenders)
        fresh = [s for s in range(max(seeds) + 1 + 2 * n) if s not in seeds][: 2 * n - len(seeds)]
        fraction, seeds, n_new = 1.0, (*seeds, *fresh), n
    else:
        fraction, n_new = next_fraction(reached), len(seeds)
    scaled = [stage.at(fraction) for k in contenders for stage in pilot.stages[k]]
    cost = Cost.of(scaled, pilot.rates, paid=False, scale=n_new)
    return NextRuns(
        candidates=tuple(contenders), fraction=fraction, seeds=tuple(seeds), seconds=cost.seconds, money=cost.money
    )


def next_fraction(reached: float) -> float:
    """The fraction of the data after `reached`: twice as much, or all."""
    return 1.0 if 2 * reached > ALMOST else 2 * reached


def outlook_of(pilot: Pilot) -> Outlook:
    """Trains the updates with the samples that have arrived by each batch, on a part of the data; raises CannotSay.

    The error of an update at full size is its forecast, times the error on the part with these samples over that with
    all.
    """
    question, (curves, _) = pilot.question, curves_of(pilot)
    numbers, full, batches = list(curves), sum(pilot.sizes), list(question.arrivals)
    draws = dict(zip(numbers, forecast([curves[k] for k in numbers], full).draws.T, strict=True))
    chosen: dict[str, int] = {}
    for k in sorted(numbers, key=lambda k: float(draws[k].mean())):  # of several replays the best
        if (action := ACTIONS.get(pilot.full.config.regimes[k].name)) is not None:
            chosen.setdefault(action, k)
    if NOTHING not in chosen or len(chosen) < 2:
        raise CannotSay(
            f"arrivals need d1_only and one of {', '.join(list(ACTIONS)[1:])} among the candidates that trained"
        )
    arrived, updates = list(accumulate(batches)), {action: k for action, k in chosen.items() if action != NOTHING}
    size = _varied_size(pilot, [curves[k] for k in updates.values()], arrived)
    runs = pilot.vary(size / full, arrived, list(updates.values()))
    rng, after, price = np.random.default_rng(0), {}, {}
    for action, k in updates.items():
        base = float(curves[k].means[list(curves[k].sizes).index(size)])
        columns = []
        for own in runs:
            found = [serving_value(run, pilot) for run in own[k]]
            values = np.array([value for value in found if value is not None])
            if len(values) < len(pilot.full.config.seeds):
                raise CannotSay(f"{pilot.full.config.regimes[k].label} did not train on every arrival")
            errors = values if question.is_error else 1 - values
            noise = errors.std(ddof=1) / len(errors) ** 0.5 if len(errors) > 1 else 0.0
            there = errors.mean() + noise * rng.standard_normal(len(draws[k]))
            columns.append(draws[k] * np.maximum(there / base, 0.0) if base else draws[k])
        after[action] = points_of(np.stack(columns, axis=1), question)
        cost = pilot.cost(k, paid=action != RETRAIN)
        price[action] = cost.money / (full if action == RETRAIN else pilot.sizes[1])
    assert question.value.point is not None
    return Outlook(
        start=pilot.sizes[0],
        batches=batches,
        before=points_of(draws[chosen[NOTHING]], question),
        after=after,
        price=price,
        worth=question.value.point,
    )


def _varied_size(pilot: Pilot, curves: Sequence[Curve], arrived: Sequence[int]) -> int:
    """The largest size of all `curves` at which Dataset 2 has as many samples as arrive; raises CannotSay."""
    full, (_, n2), (_, least) = sum(pilot.sizes), pilot.sizes, pilot.floors
    common = set.intersection(*(set(curve.sizes) for curve in curves))
    found = [size for size in common if arrived[-1] * size / full <= n2]
    if not found or round(arrived[0] * max(found) / full) < least:
        needed = f"at least {least} of its samples at every arrival, and at most {n2}"
        raise CannotSay(
            f"the pilot's parts of Dataset 2 are too small for them: they need {needed}; change arrivals or the budget"
        )
    return max(found)
