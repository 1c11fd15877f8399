"""Regimes that differ in the order of the data alone."""

from __future__ import annotations

from dataclasses import replace

from src.regimes.parts import Stages, chain, later_with, one_after_the_other, require
from src.regimes.stage import Mixture, Stage


def sequential(
    n_parts: int,
    *,
    reset_optimizer: bool = True,
    lr_factor: float = 1.0,
    lr_decay: float = 1.0,
    batch_factor: int = 1,
    checkpoint: str | None = None,
) -> Stages:
    """Dataset 1, then 2, ..., weights kept: naive fine-tuning, the field's lower bound.

    `batch_factor` multiplies the batch of every stage but the first; `lr_decay` multiplies the rate once more at every
    stage (stable SGD, Mirzadeh et al. 2020, with dropout and small batches).
    """
    require(lr_decay > 0, "sequential.lr_decay", lr_decay, "must be above 0")
    require(batch_factor > 0, "sequential.batch_factor", batch_factor, "must be above 0: times the batch of stage 1")
    stages = one_after_the_other(n_parts, checkpoint)
    stages = later_with(stages, "sequential", reset_optimizer, lr_factor, checkpoint)
    stages = [replace(stage, lr_factor=stage.lr_factor * lr_decay**k) for k, stage in enumerate(stages)]
    return [stages[0], *(replace(stage, batch_factor=batch_factor) for stage in stages[1:])]


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


def reverse(n_parts: int, *, reset_optimizer: bool = True, lr_factor: float = 1.0) -> Stages:
    """The last data set first, Dataset 1 last, weights kept: sequential in the other order."""
    mixtures = [Mixture(parts=(part,)) for part in reversed(range(n_parts))]
    return later_with(chain(mixtures), "reverse", reset_optimizer, lr_factor)
