"""Regimes that differ in the weights that a stage starts from."""

from __future__ import annotations

from dataclasses import replace

from src.regimes.parts import Stages, chain, one_after_the_other, require, rest_and, shared_knobs
from src.regimes.stage import Mixture, Stage, Start


@shared_knobs(checkpoint=True)
def warm_start(n_parts: int, *, grow_batch: bool = False) -> Stages:
    """Dataset 1, then Datasets 1 and 2, ..., weights kept while the data grow (Ash & Adams 2020); cumulative.

    `grow_batch`: the batch of stage k is k times the first one's (De Lange et al. 2023).
    """
    stages = chain([Mixture(parts=tuple(range(part + 1))) for part in range(n_parts)])
    return [replace(stage, batch_factor=k if grow_batch else 1) for k, stage in enumerate(stages, start=1)]


@shared_knobs(checkpoint=False)
def joint_then_new(n_parts: int) -> Stages:
    """All data sets together, then the last one alone, weights kept: general pre-training, then specialisation."""
    return chain([Mixture(parts=tuple(range(n_parts))), Mixture(parts=(n_parts - 1,))])


@shared_knobs(checkpoint=False)
def new_then_joint(n_parts: int) -> Stages:
    """The last data set alone, then all together, weights kept: the specialist is trained on, with the old data."""
    return chain([Mixture(parts=(n_parts - 1,)), Mixture(parts=tuple(range(n_parts)))])


@shared_knobs(checkpoint=True)
def shrink_perturb(n_parts: int, *, shrink: float = 0.4, perturb: float = 0.1) -> Stages:
    """Warm start from w <- shrink w + perturb w0', w0' freshly drawn initial weights (Ash & Adams 2020)."""
    require(shrink >= 0, "shrink_perturb.shrink", shrink, "must not be negative: a factor on the weights")
    require(perturb >= 0, "shrink_perturb.perturb", perturb, "must not be negative: a factor on fresh initial weights")
    first, *later = warm_start(n_parts)
    if (shrink, perturb) == (1.0, 0.0):
        return [first, *later]
    start = Start(kind="shrink_perturb", shrink=shrink, perturb=perturb)
    return [first, *(replace(stage, start=replace(start, of=stage.start.of)) for stage in later)]


@shared_knobs(checkpoint=True)
def dash(n_parts: int, *, floor: float = 0.3, alpha: float = 0.3) -> Stages:
    """Warm start after each unit's weights are multiplied by max(floor, cosine of them and the descent direction).

    Direction-aware shrinking (Shin et al. 2024); `alpha`: weight of the newest batch in the mean gradient.
    """
    require(0 < floor <= 1, "dash.floor", floor, "must be above 0 and at most 1: the least factor on the weights")
    require(
        0 < alpha <= 1, "dash.alpha", alpha, "must be above 0 and at most 1: the newest gradient's share of the mean"
    )
    first, *later = warm_start(n_parts)
    if floor == 1:
        return [first, *later]
    start = Start(kind="dash", shrink=floor, alpha=alpha)
    return [first, *(replace(stage, start=replace(start, of=stage.start.of)) for stage in later)]


def average(n_parts: int, *, weight: float = 0.5) -> Stages:
    """Models of each data set alone, from one initialisation; then (1 - weight) w1 + weight w2, without further
    training.

    `weight` is the weight of the last data set's model; the others share the rest equally (Wortsman et al. 2022,
    soups).
    """
    require(0 <= weight <= 1, "average.weight", weight, "must lie between 0 and 1: the last model's share of the mean")
    parts = tuple(range(n_parts))
    alone = [Stage(mixture=Mixture(parts=(part,))) for part in parts]
    start = Start(kind="average", of=parts, weights=rest_and(weight, n_parts))
    return [*alone, Stage(mixture=Mixture(parts=parts), start=start, budget=0)]


@shared_knobs(checkpoint=True)
def model_soup(n_parts: int, *, weight: float = 0.5) -> Stages:
    """Sequential, then (1 - weight) w1 + weight w2 of its first and its last stage's weights, without further training.

    Wortsman et al. 2022b (WiSE-FT).
    """
    problem = "must lie between 0 and 1: the last stage's share of the mean"
    require(0 <= weight <= 1, "model_soup.weight", weight, problem)
    stages = one_after_the_other(n_parts)
    if weight == 1:
        return stages
    start = Start(kind="average", of=(0, n_parts - 1), weights=(1 - weight, weight))
    return [*stages, Stage(mixture=Mixture(parts=tuple(range(n_parts))), start=start, budget=0)]
