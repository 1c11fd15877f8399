"""What the actions reach as batches arrive: the forecasts, varied by pilot runs with more or less of Dataset 2."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from src.advise.answer import curves_of, points_of, serving_value
from src.advise.arrivals import ACTIONS, NOTHING, RETRAIN, Outlook
from src.advise.curves import Curve, forecast
from src.advise.pilot import CannotSay, Pilot


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
    size = _size(pilot, [curves[k] for k in updates.values()], arrived)
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


def _size(pilot: Pilot, curves: Sequence[Curve], arrived: Sequence[int]) -> int:
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
