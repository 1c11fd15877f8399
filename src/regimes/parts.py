"""Parts that regimes share: chains of stages, checks of knobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from src.errors import ConfigError
from src.regimes.stage import Mixture, Penalty, Requirement, Stage, Start

Stages = list[Stage]


def on_dataset_1(checkpoint: str | None) -> Stage:
    """Dataset 1 from fresh weights, or from a file of final weights, without training."""
    stage = Stage(mixture=Mixture(parts=(0,)))
    return stage if checkpoint is None else replace(stage, start=Start(kind="file", path=checkpoint), budget=0)


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


def one_after_the_other(n_parts: int, checkpoint: str | None, **later: Any) -> Stages:
    """One data set after the other; `later`: see `chain`."""
    return [on_dataset_1(checkpoint), *chain([Mixture(parts=(part,)) for part in range(n_parts)], **later)[1:]]


def rest_and(last: float, n_parts: int) -> tuple[float, ...]:
    """The share of the `last` data set, after equal shares of the rest for the others."""
    return (*[(1 - last) / (n_parts - 1)] * (n_parts - 1), last)


def held(
    n_parts: int, regime: str, penalty: Penalty, reset_optimizer: bool, lr_factor: float, checkpoint: str | None
) -> Stages:
    """Sequential, with a penalty that holds every later stage near the end of the one before it."""
    require(penalty.strength >= 0, f"{regime}.strength", penalty.strength, "must not be negative")
    stages = one_after_the_other(n_parts, checkpoint)
    first, *later = later_with(stages, regime, reset_optimizer, lr_factor, checkpoint)
    if penalty.strength == 0:
        return [first, *later]
    return [first, *(replace(stage, penalty=replace(penalty, of=k)) for k, stage in enumerate(later))]


def later_with(
    stages: Stages, regime: str, reset_optimizer: bool, lr_factor: float, checkpoint: str | None = None
) -> Stages:
    """The stages, all but the first with a factor on the learning rate, and the optimizer's state kept unless
    `reset_optimizer`. `checkpoint`: the weights that the first stage starts from."""
    problem = "needs optimizer state, which a file of weights does not hold; leave it true"
    require(reset_optimizer or checkpoint is None, f"{regime}.reset_optimizer", reset_optimizer, problem)
    require(lr_factor > 0, f"{regime}.lr_factor", lr_factor, "must be above 0")
    first, *later = stages
    return [first, *(replace(stage, reset_optimizer=reset_optimizer, lr_factor=lr_factor) for stage in later)]


def requiring(stages: Stages, applies: bool, **condition: Any) -> Stages:
    """The same stages, under a condition on the cell (the fields of `Requirement`) if it `applies`."""
    return (
        [replace(stages[0], requires=(*stages[0].requires, Requirement(**condition))), *stages[1:]]
        if applies
        else stages
    )


def require(holds: bool, knob: str, value: object, problem: str) -> None:
    """Raise ConfigError for a knob unless the condition holds."""
    if not holds:
        raise ConfigError(f"regime.{knob}", value, problem)
