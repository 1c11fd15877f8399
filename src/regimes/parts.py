"""Parts that regimes share: chains of stages, checks of knobs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from src.errors import ConfigError
from src.regimes.stage import Mixture, Penalty, Requirement, Stage, Start

Stages = list[Stage]


def previous(stage: int) -> Start:
    """The final weights of the stage before `stage`."""
    return Start(kind="previous", of=(stage - 1,))


def chain(mixtures: Sequence[Mixture], **later: Any) -> Stages:
    """One mixture after the other, weights kept; `later` are settings of every stage but the first."""
    first, *others = mixtures
    return [
        Stage(mixture=first),
        *(Stage(mixture=m, start=previous(k), **later) for k, m in enumerate(others, start=1)),
    ]


def one_after_the_other(n_parts: int, **later: Any) -> Stages:
    """One data set after the other; `later`: see `chain`."""
    return chain([Mixture(parts=(part,)) for part in range(n_parts)], **later)


def rest_and(last: float, n_parts: int) -> tuple[float, ...]:
    """The share of the `last` data set, after equal shares of the rest for the others."""
    return (*[(1 - last) / (n_parts - 1)] * (n_parts - 1), last)


def held(n_parts: int, regime: str, penalty: Penalty) -> Stages:
    """Sequential, with a penalty that holds every later stage near the end of the one before it."""
    require(penalty.strength >= 0, f"{regime}.strength", penalty.strength, "must not be negative")
    first, *later = one_after_the_other(n_parts)
    if penalty.strength == 0:
        return [first, *later]
    return [first, *(replace(stage, penalty=replace(penalty, of=k)) for k, stage in enumerate(later))]


def at_boundaries(
    stages: Stages,
    regime: str,
    *,
    reset_optimizer: bool = True,
    lr_factor: float = 1.0,
    checkpoint: str | None = None,
) -> Stages:
    """The stages under the knobs that regimes of several stages share; the catalog says what they mean."""
    problem = "needs optimizer state, which a file of weights does not hold; leave it true"
    require(reset_optimizer or checkpoint is None, f"{regime}.reset_optimizer", reset_optimizer, problem)
    require(lr_factor > 0, f"{regime}.lr_factor", lr_factor, "must be above 0")
    changed = list(stages)
    if checkpoint is not None:
        changed[0] = replace(stages[0], start=Start(kind="file", path=checkpoint), budget=0)
    for k, stage in enumerate(stages):
        if k and stage.budget:
            resets, factor = stage.reset_optimizer and reset_optimizer, stage.lr_factor * lr_factor
            changed[k] = replace(stage, reset_optimizer=resets, lr_factor=factor)
    return changed


def shared_knobs(*, checkpoint: bool) -> Callable[[Callable[..., Stages]], Callable[..., Stages]]:
    """Decorates a regime of several stages: adds the knobs of `at_boundaries` to its own, and applies them.

    `checkpoint`: whether it has the knob of that name; its first stage is then on Dataset 1 alone.
    """
    named = inspect.signature(at_boundaries, eval_str=True).parameters
    shared = [named[knob] for knob in ("reset_optimizer", "lr_factor", *(["checkpoint"] if checkpoint else []))]

    def decorated(own: Callable[..., Stages]) -> Callable[..., Stages]:
        @functools.wraps(own)
        def regime(n_parts: int, **knobs: Any) -> Stages:
            given = {knob.name: knobs.pop(knob.name) for knob in shared if knob.name in knobs}
            return at_boundaries(own(n_parts, **knobs), own.__name__, **given)

        signature = inspect.signature(own)
        regime.__annotations__ = own.__annotations__ | {knob.name: knob.annotation for knob in shared}
        regime.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*signature.parameters.values(), *shared]
        )
        return regime

    return decorated


def requiring(stages: Stages, applies: bool, **condition: Any) -> Stages:
    """The same stages, under a condition on the cell (the fields of `Requirement`) if it `applies`."""
    if not applies:
        return stages
    first, *others = stages
    return [replace(first, requires=(*first.requires, Requirement(**condition))), *others]


def require(holds: bool, knob: str, value: object, problem: str) -> None:
    """Raise ConfigError for a knob unless the condition holds."""
    if not holds:
        raise ConfigError(f"regime.{knob}", value, problem)
