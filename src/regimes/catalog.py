"""The regimes: each is a short function from the number of data sets in the stream to a list of stages.

Regimes differ only in their stages. The keyword arguments of a regime are its knobs, with defaults that conf/regime/NAME.yaml
repeats. Knobs that switch the method off (a replay share of 0, a penalty of 0) give the stages of the plain regime, and thus
the same runs. docs/REGIMES.md has the tables, the sources and every deviation from them. Common knobs: `checkpoint` is a
file of weights (.pt, .pth, .safetensors) in place of the stage on Dataset 1; `reset_optimizer` clears the optimizer's state
at every boundary; `lr_factor` multiplies the learning rate of every stage but the first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from src.errors import ConfigError
from src.regimes.stage import Mixture, Penalty, Requirement, Stage, Start, Trainable

Stages = list[Stage]

FULL_UP_TO = 2048
"""Parameters up to which EWC may use the whole Fisher matrix: 32 MiB in double precision."""
TEMPERATURE = 2.0
"""Default temperature of learning without forgetting."""

# ------------------------------------------------------------------------------------------------ plain


def sequential(
    n_parts: int, *, reset_optimizer: bool = True, lr_factor: float = 1.0, checkpoint: str | None = None
) -> Stages:
    """Dataset 1, then 2, ..., weights kept: naive fine-tuning, the field's lower bound."""
    _check_state("sequential", reset_optimizer, checkpoint)
    stages = _one_after_the_other(n_parts, checkpoint, reset_optimizer=reset_optimizer)
    return _at_rate(stages, "sequential", lr_factor)


def combined(n_parts: int) -> Stages:
    """A fresh model on the union of all data sets: joint (offline) training, the field's upper bound."""
    return [Stage(mixture=Mixture(parts=tuple(range(n_parts))))]


def d1_only(n_parts: int) -> Stages:
    """A fresh model on Dataset 1 alone: sequential after its first stage."""
    del n_parts
    return [Stage(mixture=Mixture(parts=(0,)))]


def d2_only(n_parts: int) -> Stages:
    """A fresh model on Dataset 2 alone: training without Dataset 1."""
    assert n_parts >= 2
    return [Stage(mixture=Mixture(parts=(1,)))]


def reverse(n_parts: int) -> Stages:
    """The last data set first, Dataset 1 last, weights kept: sequential in the other order."""
    return _chain([Mixture(parts=(part,)) for part in reversed(range(n_parts))])


# ------------------------------------------------------------------------------------------------ other mixtures


def replay(
    n_parts: int,
    *,
    share: float = 0.1,
    balanced: bool = False,
    reset_optimizer: bool = True,
    lr_factor: float = 1.0,
    checkpoint: str | None = None,
) -> Stages:
    """Sequential, but a fraction `share` of the draws of every later stage comes from the data before it.

    The number of updates is that of sequential. Earlier data sets share the replayed draws equally; `balanced` balances
    these draws over classes. Experience replay with an unlimited memory (Chaudhry et al. 2019).
    """
    _require(0 <= share < 1, "replay.share", share, "must be at least 0 and below 1: a fraction of the draws")
    _check_state("replay", reset_optimizer, checkpoint)
    if share == 0:
        return sequential(n_parts, reset_optimizer=reset_optimizer, lr_factor=lr_factor, checkpoint=checkpoint)
    stages = [_first(checkpoint)]
    for part in range(1, n_parts):
        shares = (*[share / part] * part, 1 - share)
        mixture = Mixture(parts=tuple(range(part + 1)), shares=shares, balanced=balanced)
        stage = Stage(mixture=mixture, start=_previous(part), counts_as=(part,), reset_optimizer=reset_optimizer)
        stages.append(stage)
    stages = _at_rate(stages, "replay", lr_factor)
    problem = "balances over classes, and a regression has none; set it to false"
    return _requiring(stages, balanced, needs="classes", knob="replay.balanced", value=True, problem=problem)


def rebalanced(n_parts: int, *, share: float = 0.5) -> Stages:
    """Combined, but a fraction `share` of the draws comes from the last data set, however small it is.

    The other data sets share the rest equally. An epoch has as many draws as combined, so small data sets are drawn repeatedly.
    """
    problem = "must lie between 0 and 1: the last data set's share of the draws"
    _require(0 < share < 1, "rebalanced.share", share, problem)
    parts = tuple(range(n_parts))
    return [Stage(mixture=Mixture(parts=parts, shares=_rest_and(share, n_parts)), counts_as=parts)]


def chunked(n_parts: int, *, n_chunks: int = 2) -> Stages:
    """The union in the seed's order, cut into `n_chunks` pieces that are trained one after the other, weights kept.

    One piece is combined; as many pieces as samples is online training.
    """
    _require(n_chunks >= 1, "chunked.n_chunks", n_chunks, "must be at least 1")
    stages = _chain([Mixture(parts=tuple(range(n_parts)), chunk=(k, n_chunks)) for k in range(n_chunks)])
    problem = "is more than the {n} samples of the stream; lower it"
    needed = {"needs": "samples", "knob": "chunked.n_chunks", "value": n_chunks, "limit": n_chunks}
    return _requiring(stages, True, problem=problem, **needed)


def blocks(n_parts: int, *, repeats: int = 10, piece: int = 1) -> Stages:
    """Combined, but each sample (or piece of `piece` samples) is drawn `repeats` times in a row: an order, not a stage.

    An epoch of the budget stays as many samples as one pass: 10 epochs with repeats=10 are one pass over the blocks, where
    combined makes 10 shuffled passes; 1 epoch covers the first tenth of the samples, 10 times each.
    """
    _require(repeats >= 1, "blocks.repeats", repeats, "must be at least 1")
    _require(piece >= 1, "blocks.piece", piece, "must be at least 1 sample")
    return [Stage(mixture=Mixture(parts=tuple(range(n_parts)), repeats=repeats, piece=piece if repeats > 1 else 1))]


# ------------------------------------------------------------------------------------------------ other weights


def warm_start(
    n_parts: int, *, reset_optimizer: bool = True, lr_factor: float = 1.0, checkpoint: str | None = None
) -> Stages:
    """Dataset 1, then Datasets 1 and 2, ..., weights kept while the data grow (Ash & Adams 2020); cumulative."""
    _check_state("warm_start", reset_optimizer, checkpoint)
    first, *later = shrink_perturb(n_parts, shrink=1.0, perturb=0.0, checkpoint=checkpoint)
    stages = [first, *(replace(stage, reset_optimizer=reset_optimizer) for stage in later)]
    return _at_rate(stages, "warm_start", lr_factor)


def joint_then_new(n_parts: int, *, reset_optimizer: bool = True, lr_factor: float = 1.0) -> Stages:
    """All data sets together, then the last one alone, weights kept: general pre-training, then specialisation."""
    mixtures = [Mixture(parts=tuple(range(n_parts))), Mixture(parts=(n_parts - 1,))]
    return _at_rate(_chain(mixtures, reset_optimizer=reset_optimizer), "joint_then_new", lr_factor)


def shrink_perturb(
    n_parts: int, *, shrink: float = 0.4, perturb: float = 0.1, lr_factor: float = 1.0, checkpoint: str | None = None
) -> Stages:
    """Warm start from w <- shrink w + perturb w0', w0' freshly drawn initial weights (Ash & Adams 2020)."""
    _require(shrink >= 0, "shrink_perturb.shrink", shrink, "must not be negative: a factor on the weights")
    _require(perturb >= 0, "shrink_perturb.perturb", perturb, "must not be negative: a factor on fresh initial weights")
    stages = [_first(checkpoint)]
    for part in range(1, n_parts):
        start = _previous(part)
        if (shrink, perturb) != (1.0, 0.0):
            start = Start(kind="shrink_perturb", of=start.of, shrink=shrink, perturb=perturb)
        stages.append(Stage(mixture=Mixture(parts=tuple(range(part + 1))), start=start))
    return _at_rate(stages, "shrink_perturb", lr_factor)


def average(n_parts: int, *, weight: float = 0.5) -> Stages:
    """Models of each data set alone, from one initialisation; then (1 - weight) w1 + weight w2, without further training.

    `weight` is the weight of the last data set's model; the others share the rest equally (Wortsman et al. 2022, soups).
    """
    _require(0 <= weight <= 1, "average.weight", weight, "must lie between 0 and 1: the last model's share of the mean")
    parts = tuple(range(n_parts))
    alone = [Stage(mixture=Mixture(parts=(part,))) for part in parts]
    start = Start(kind="average", of=parts, weights=_rest_and(weight, n_parts))
    return [*alone, Stage(mixture=Mixture(parts=parts), start=start, budget=0)]


# ------------------------------------------------------------------------------------------------ restricted


def freeze(
    n_parts: int,
    *,
    layers: int = 1,
    first: int | None = None,
    pattern: str | None = None,
    lr_factor: float = 1.0,
    checkpoint: str | None = None,
) -> Stages:
    """Sequential, but later stages train the last `layers` layers alone; the others keep Dataset 1's features.

    Instead of `layers`: `first`, the number of layers that are frozen; or `pattern`, a regular expression that the names of
    trained parameters match.
    """
    given = {knob: value for knob, value in {"first": first, "pattern": pattern}.items() if value is not None}
    problem = "give one of freeze.layers, freeze.first and freeze.pattern"
    _require(len(given) + (layers != 1) <= 1, "freeze", {**given, "layers": layers}, problem)
    _require(layers >= 1, "freeze.layers", layers, "must be at least 1 layer that is trained")
    if pattern is not None:
        _require(_compiles(pattern), "freeze.pattern", pattern, "is no regular expression")
        _require("/" not in pattern, "freeze.pattern", pattern, "no parameter has a / in its name; use dots")
        trainable = Trainable(kind="pattern", pattern=pattern)
    elif first is not None:
        _require(first >= 1, "freeze.first", first, "must be at least 1 layer that is frozen")
        trainable = Trainable(kind="after", layers=first)
    else:
        trainable = Trainable(kind="last", layers=layers)
    return _at_rate(_one_after_the_other(n_parts, checkpoint, trainable=trainable), "freeze", lr_factor)


def ewc(
    n_parts: int,
    *,
    strength: float = 1.0,
    full: bool = False,
    reset_optimizer: bool = True,
    lr_factor: float = 1.0,
    checkpoint: str | None = None,
) -> Stages:
    """Sequential + strength/2 sum_i A_i (w_i - w_i')^2, A the Fisher information of earlier data at w', the weights before.

    Elastic weight consolidation (Kirkpatrick et al. 2017), scaled so that strength 1 counts each earlier sample as much as
    a new one. `full`: the whole matrix A in place of its diagonal, for models of few parameters.
    """
    penalty = Penalty(kind="ewc_full" if full else "ewc", strength=strength)
    stages = _held(n_parts, "ewc", penalty, reset_optimizer, lr_factor, checkpoint)
    fix = f"leave it false, or choose a network of at most {FULL_UP_TO:,} parameters"
    problem = f"needs a matrix of {{n:,}} x {{n:,}} numbers; {fix}"
    holds = full and strength > 0
    return _requiring(stages, holds, needs="parameters", knob="ewc.full", value=True, problem=problem, limit=FULL_UP_TO)


def l2_sp(
    n_parts: int,
    *,
    strength: float = 0.1,
    reset_optimizer: bool = True,
    lr_factor: float = 1.0,
    checkpoint: str | None = None,
) -> Stages:
    """Sequential + strength/2 |w - w'|^2, w' the weights before the stage (Li, Grandvalet & Davoine 2018)."""
    return _held(n_parts, "l2_sp", Penalty(kind="l2_sp", strength=strength), reset_optimizer, lr_factor, checkpoint)


def lwf(
    n_parts: int,
    *,
    strength: float = 1.0,
    temperature: float = TEMPERATURE,
    reset_optimizer: bool = True,
    lr_factor: float = 1.0,
    checkpoint: str | None = None,
) -> Stages:
    """Sequential + strength x distance of the outputs on the new data from those of the model before the stage.

    Learning without forgetting (Li & Hoiem 2017): cross entropy of softmax(outputs / temperature); squared for loss=mse.
    """
    _require(temperature > 0, "lwf.temperature", temperature, "must be above 0")
    penalty = Penalty(kind="lwf", strength=strength, temperature=temperature)
    stages = _held(n_parts, "lwf", penalty, reset_optimizer, lr_factor, checkpoint)
    knob, problem = "lwf.temperature", "has no effect with loss=mse; leave it out"
    is_set = temperature != TEMPERATURE
    return _requiring(stages, is_set, needs="cross_entropy", knob=knob, value=temperature, problem=problem)


# ------------------------------------------------------------------------------------------------ parts of regimes


def _first(checkpoint: str | None) -> Stage:
    """Dataset 1 from fresh weights, or from a file of final weights, without training."""
    stage = Stage(mixture=Mixture(parts=(0,)))
    return stage if checkpoint is None else replace(stage, start=Start(kind="file", path=checkpoint), budget=0)


def _previous(stage: int) -> Start:
    """The final weights of the stage before `stage`."""
    return Start(kind="previous", of=(stage - 1,))


def _chain(mixtures: Sequence[Mixture], **later: Any) -> Stages:
    """One mixture after the other, weights kept; `later` are settings of every stage but the first."""
    first, *others = mixtures
    return [
        Stage(mixture=first),
        *(Stage(mixture=m, start=_previous(k), **later) for k, m in enumerate(others, start=1)),
    ]


def _one_after_the_other(n_parts: int, checkpoint: str | None, **later: Any) -> Stages:
    """One data set after the other; `later`: see `_chain`."""
    return [_first(checkpoint), *_chain([Mixture(parts=(part,)) for part in range(n_parts)], **later)[1:]]


def _rest_and(last: float, n_parts: int) -> tuple[float, ...]:
    """The share of the `last` data set, after equal shares of the rest for the others."""
    return (*[(1 - last) / (n_parts - 1)] * (n_parts - 1), last)


def _held(
    n_parts: int, regime: str, penalty: Penalty, reset_optimizer: bool, lr_factor: float, checkpoint: str | None
) -> Stages:
    """Sequential, with a penalty that holds every later stage near the end of the one before it."""
    _require(penalty.strength >= 0, f"{regime}.strength", penalty.strength, "must not be negative")
    _check_state(regime, reset_optimizer, checkpoint)
    stages = _one_after_the_other(n_parts, checkpoint, reset_optimizer=reset_optimizer)
    first, *later = _at_rate(stages, regime, lr_factor)
    if penalty.strength == 0:
        return [first, *later]
    return [first, *(replace(stage, penalty=replace(penalty, of=k)) for k, stage in enumerate(later))]


def _at_rate(stages: Stages, regime: str, lr_factor: float) -> Stages:
    """The stages with a factor on the learning rate of all but the first."""
    _require(lr_factor > 0, f"{regime}.lr_factor", lr_factor, "must be above 0")
    first, *later = stages
    return [first, *(replace(stage, lr_factor=lr_factor) for stage in later)]


def _requiring(stages: Stages, applies: bool, **condition: Any) -> Stages:
    """The same stages, under a condition on the cell (the fields of `Requirement`) if it `applies`."""
    return [replace(stages[0], requires=(Requirement(**condition),)), *stages[1:]] if applies else stages


def _check_state(regime: str, reset_optimizer: bool, checkpoint: str | None) -> None:
    problem = "needs optimizer state, which a file of weights does not hold; leave it true"
    _require(reset_optimizer or checkpoint is None, f"{regime}.reset_optimizer", reset_optimizer, problem)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _require(holds: bool, knob: str, value: object, problem: str) -> None:
    """Raise ConfigError for a knob unless the condition holds."""
    if not holds:
        raise ConfigError(f"regime.{knob}", value, problem)


PLAIN = (sequential, combined, d1_only, d2_only, reverse)
MIXTURES = (replay, rebalanced, chunked, blocks)
WEIGHTS = (warm_start, joint_then_new, shrink_perturb, average)
RESTRICTED = (freeze, ewc, l2_sp, lwf)
REGIMES: dict[str, Callable[..., Stages]] = {
    regime.__name__: regime for regime in (*PLAIN, *MIXTURES, *WEIGHTS, *RESTRICTED)
}
