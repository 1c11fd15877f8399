"""Regimes that differ in the order of the data alone."""

from __future__ import annotations

from dataclasses import replace

from src.regimes.parts import Stages, chain, one_after_the_other, require, shared_knobs
from src.regimes.stage import Mixture, Stage


@shared_knobs(checkpoint=True)
def sequential(n_parts: int, *, lr_decay: float = 1.0, batch_factor: int = 1) -> Stages:
    """Dataset 1, then 2, ..., weights kept: naive fine-tuning, the field's lower bound.

    `batch_factor` multiplies the batch of every stage but the first; `lr_decay` multiplies the rate once more at every
    stage (stable SGD, Mirzadeh et al. 2020, with dropout and small batches).
    """
    require(lr_decay > 0, "sequential.lr_decay", lr_decay, "must be above 0")
    require(batch_factor > 0, "sequential.batch_factor", batch_factor, "must be above 0: times the batch of stage 1")
    first, *later = one_after_the_other(n_parts)
    later = [replace(s, lr_factor=lr_decay**k, batch_factor=batch_factor) for k, s in enumerate(later, start=1)]
    return [first, *later]


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


@shared_knobs(checkpoint=False)
def reverse(n_parts: int) -> Stages:
    """The last data set first, Dataset 1 last, weights kept: sequential in the other order."""
    return chain([Mixture(parts=(part,)) for part in reversed(range(n_parts))])
