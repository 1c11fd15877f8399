"""Regimes that restrict what a stage may change: frozen layers, penalties."""

from __future__ import annotations

import re
from dataclasses import replace

from src.regimes.parts import Stages, held, one_after_the_other, previous, require, requiring, shared_knobs
from src.regimes.stage import Mixture, Penalty, Stage, Trainable

FULL_UP_TO = 2048
"""Parameters up to which EWC may use the whole Fisher matrix: 32 MiB in double precision."""
TEMPERATURE = 2.0
"""Default temperature of learning without forgetting."""


@shared_knobs(checkpoint=True)
def freeze(n_parts: int, *, layers: int = 1, first: int | None = None, pattern: str | None = None) -> Stages:
    """Sequential, but later stages train the last `layers` layers alone; the others keep Dataset 1's features.

    Instead of `layers`: `first`, the number of layers that are frozen; or `pattern`, a regular expression that the
    names of trained parameters match.
    """
    given = {knob: value for knob, value in {"first": first, "pattern": pattern}.items() if value is not None}
    problem = "give one of freeze.layers, freeze.first and freeze.pattern"
    require(len(given) + (layers != 1) <= 1, "freeze", {**given, "layers": layers}, problem)
    require(layers >= 1, "freeze.layers", layers, "must be at least 1 layer that is trained")
    if pattern is not None:
        require(_compiles(pattern), "freeze.pattern", pattern, "is no regular expression")
        require("/" not in pattern, "freeze.pattern", pattern, "no parameter has a / in its name; use dots")
        trainable = Trainable(kind="pattern", pattern=pattern)
    elif first is not None:
        require(first >= 1, "freeze.first", first, "must be at least 1 layer that is frozen")
        trainable = Trainable(kind="after", layers=first)
    else:
        trainable = Trainable(kind="last", layers=layers)
    return one_after_the_other(n_parts, trainable=trainable)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


@shared_knobs(checkpoint=True)
def lp_ft(n_parts: int, *, probe: float = 0.5) -> Stages:
    """Sequential, but a fraction `probe` of every later stage trains the head alone, the rest all layers.

    Linear probing, then fine-tuning (Kumar et al. 2022).
    """
    problem = "must lie between 0 and 1: the probe's share of the stage's budget"
    require(0 <= probe <= 1, "lp_ft.probe", probe, problem)
    stages = [Stage(mixture=Mixture(parts=(0,)))]
    for part in range(1, n_parts):
        on_new = Stage(mixture=Mixture(parts=(part,)))
        if probe:
            on_head = replace(on_new, trainable=Trainable(kind="last", layers=1))
            stages.append(replace(on_head, start=previous(len(stages)), budget=probe))
        if probe < 1:
            stages.append(replace(on_new, start=previous(len(stages)), budget=1 - probe))
    return stages


@shared_knobs(checkpoint=True)
def ewc(n_parts: int, *, strength: float = 1.0, full: bool = False) -> Stages:
    """Sequential + strength/2 sum_i A_i (w_i - w_i')^2, A the Fisher information of earlier data at w', the weights
    before.

    Elastic weight consolidation (Kirkpatrick et al. 2017), scaled so that strength 1 counts each earlier sample as much
    as a new one. `full`: the whole matrix A in place of its diagonal, for models of few parameters.
    """
    penalty = Penalty(kind="ewc_full" if full else "ewc", strength=strength)
    stages = held(n_parts, "ewc", penalty)
    fix = f"leave it false, or choose a network of at most {FULL_UP_TO:,} parameters"
    problem = f"needs a matrix of {{n:,}} x {{n:,}} numbers; {fix}"
    holds = full and strength > 0
    return requiring(stages, holds, needs="parameters", knob="ewc.full", value=True, problem=problem, limit=FULL_UP_TO)


@shared_knobs(checkpoint=True)
def l2_sp(n_parts: int, *, strength: float = 0.1) -> Stages:
    """Sequential + strength/2 |w - w'|^2, w' the weights before the stage (Li, Grandvalet & Davoine 2018)."""
    return held(n_parts, "l2_sp", Penalty(kind="l2_sp", strength=strength))


@shared_knobs(checkpoint=False)
def l2_init(n_parts: int, *, strength: float = 0.01) -> Stages:
    """Sequential + strength/2 |w - w0|^2 in every stage, w0 the seed's initial weights (Kumar et al. 2023)."""
    require(strength >= 0, "l2_init.strength", strength, "must not be negative")
    penalty = Penalty(kind="l2_init", strength=strength, of=None) if strength else Penalty()
    return [replace(stage, penalty=penalty) for stage in one_after_the_other(n_parts)]


@shared_knobs(checkpoint=True)
def lwf(
    n_parts: int,
    *,
    strength: float = 1.0,
    temperature: float = TEMPERATURE,
    by_tasks: bool = False,
    new_classes: bool = False,
) -> Stages:
    """Sequential + strength x distance of the outputs on the new data from those of the model before the stage.

    Learning without forgetting (Li & Hoiem 2017): cross entropy of softmax(outputs / temperature); squared for
    loss=mse. `by_tasks`: times (k - 1) temperature^2 in the k-th stage (van de Ven & Tolias 2018). `new_classes`: the
    softmax of the trained model includes the classes that are new in the stage, which the earlier model gives
    probability 0.
    """
    require(temperature > 0, "lwf.temperature", temperature, "must be above 0")
    penalty = Penalty(kind="lwf", strength=strength, temperature=temperature, new_classes=new_classes)
    stages = held(n_parts, "lwf", penalty)
    if by_tasks:
        factors = [k * temperature**2 * strength for k in range(n_parts)]
        stages = [replace(s, penalty=replace(s.penalty, strength=f)) for s, f in zip(stages, factors, strict=True)]
    knob, problem = "lwf.new_classes", "needs split.heads=seen, whose softmax grows; leave it out"
    stages = requiring(stages, new_classes, needs="seen", knob=knob, value=True, problem=problem)
    knob, problem = "lwf.temperature", "has no effect with loss=mse; leave it out"
    is_set = temperature != TEMPERATURE
    return requiring(stages, is_set, needs="cross_entropy", knob=knob, value=temperature, problem=problem)
