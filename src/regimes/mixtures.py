"""Regimes that differ in what a stage draws: shares, pieces, orders, memories."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from src.regimes.parts import Stages, chain, one_after_the_other, previous, require, requiring, rest_and, shared_knobs
from src.regimes.stage import Mixture, Stage, Targets


@shared_knobs(checkpoint=True)
def replay(
    n_parts: int,
    *,
    share: float = 0.1,
    balanced: bool = False,
    memory: int | None = None,
    kept: Literal["reservoir", "balanced"] = "reservoir",
    even: bool = False,
) -> Stages:
    """Sequential, but a fraction `share` of the draws of every later stage comes from the data before it.

    The number of updates is that of sequential. Earlier data sets share the replayed draws equally; `balanced` balances
    these draws over classes. Experience replay (Chaudhry et al. 2019); `memory`: how many earlier samples are kept,
    chosen as `kept` says; `even`: every batch has the share.
    """
    return _replayed(n_parts, "replay", share, memory, balanced=balanced, kept=kept, even=even)


@shared_knobs(checkpoint=True)
def self_replay(n_parts: int, *, share: float = 0.1, memory: int | None = None) -> Stages:
    """Replay of earlier inputs under the labels that the network gave them before the stage: no earlier label is kept.

    Pseudo-rehearsal (Robins 1995) on real inputs.
    """
    stages = _replayed(n_parts, "self_replay", share, memory)
    if share == 0:
        return stages
    later = (replace(s, targets=Targets(kind="model", of=(k,) * (k + 1))) for k, s in enumerate(stages[1:]))
    return [stages[0], *later]


@shared_knobs(checkpoint=True)
def der(
    n_parts: int,
    *,
    share: float = 0.5,
    strength: float = 1.0,
    labels: float = 0.0,
    memory: int | None = 200,
    kept: Literal["reservoir", "balanced"] = "reservoir",
) -> Stages:
    """Replay of a memory that holds the outputs at the end of each sample's own stage: their squared distance is the
    loss.

    Dark experience replay (Buzzega et al. 2020); `labels` above 0 adds the loss of the kept labels (DER++).
    """
    require(strength >= 0, "der.strength", strength, "must not be negative")
    require(labels >= 0, "der.labels", labels, "must not be negative")
    problem = "and der.labels=0 leave nothing to learn from the memory; raise one, or take share=0"
    require(strength > 0 or labels > 0 or share == 0, "der.strength", strength, problem)
    stages = _replayed(n_parts, "der", share, memory, kept=kept, even=True)
    if share == 0 or (strength, labels) == (0.0, 1.0):
        return stages
    targets = Targets(kind="outputs", strength=strength, labels=labels)
    later = (replace(s, targets=replace(targets, of=tuple(range(k)))) for k, s in enumerate(stages[1:], start=1))
    problem = "compares outputs of a classifier, and this is a regression; take replay"
    return requiring([stages[0], *later], True, needs="classes", knob="der.strength", value=strength, problem=problem)


def gdumb(n_parts: int, *, memory: int | None = 200) -> Stages:
    """A fresh model on a memory alone, filled greedily in the order of the stream and balanced over classes.

    Prabhu et al. 2020.
    """
    require(memory is None or memory >= 1, "gdumb.memory", memory, "must be at least 1 sample, or null for all")
    parts = tuple(range(n_parts))
    stages = [Stage(mixture=Mixture(parts=parts, memory=memory, kept="greedy" if memory else "reservoir"))]
    problem = "keeps equally many of each class, and a regression has none; set it to null"
    return requiring(stages, memory is not None, needs="classes", knob="gdumb.memory", value=memory, problem=problem)


def _replayed(
    n_parts: int,
    regime: str,
    share: float,
    memory: int | None,
    *,
    balanced: bool = False,
    kept: Literal["reservoir", "balanced"] = "reservoir",
    even: bool = False,
) -> Stages:
    """Sequential with a share of earlier data in every later stage: the stages of replay and of its relatives.

    With a share of 0 those of sequential.
    """
    require(0 <= share < 1, f"{regime}.share", share, "must be at least 0 and below 1: a fraction of the draws")
    require(memory is None or memory >= 1, f"{regime}.memory", memory, "must be at least 1 sample, or null for all")
    problem = f"chooses what a memory keeps, and all is kept; set {regime}.memory"
    require(kept == "reservoir" or memory is not None, f"{regime}.kept", kept, problem)
    if share == 0:
        return one_after_the_other(n_parts)
    stages = [Stage(mixture=Mixture(parts=(0,)))]
    for part in range(1, n_parts):
        parts, shares = tuple(range(part + 1)), (*[share / part] * part, 1 - share)
        mixture = Mixture(parts=parts, shares=shares, balanced=balanced, memory=memory, kept=kept, even=even)
        stages.append(Stage(mixture=mixture, start=previous(part), counts_as=(part,)))
    problem = "balances over classes, and a regression has none; set it to false"
    stages = requiring(stages, balanced, needs="classes", knob=f"{regime}.balanced", value=True, problem=problem)
    problem = "keeps equally many of each class, and a regression has none; take reservoir"
    keeps_classes = kept == "balanced"
    return requiring(stages, keeps_classes, needs="classes", knob=f"{regime}.kept", value=True, problem=problem)


def rebalanced(n_parts: int, *, share: float = 0.5) -> Stages:
    """Combined, but a fraction `share` of the draws comes from the last data set, however small it is.

    The other data sets share the rest equally. An epoch has as many draws as combined, so small data sets are drawn
    repeatedly.
    """
    problem = "must lie between 0 and 1: the last data set's share of the draws"
    require(0 < share < 1, "rebalanced.share", share, problem)
    parts = tuple(range(n_parts))
    return [Stage(mixture=Mixture(parts=parts, shares=rest_and(share, n_parts)), counts_as=parts)]


@shared_knobs(checkpoint=False)
def chunked(n_parts: int, *, n_chunks: int = 2) -> Stages:
    """The union in the seed's order, cut into `n_chunks` pieces that are trained one after the other, weights kept.

    One piece is combined; as many pieces as samples is online training.
    """
    require(n_chunks >= 1, "chunked.n_chunks", n_chunks, "must be at least 1")
    mixtures = [Mixture(parts=tuple(range(n_parts)), chunk=(k, n_chunks)) for k in range(n_chunks)]
    problem = "is more than the {n} samples of the stream; lower it"
    needed = {"needs": "samples", "knob": "chunked.n_chunks", "value": n_chunks, "limit": n_chunks}
    return requiring(chain(mixtures), True, problem=problem, **needed)


def blocks(n_parts: int, *, repeats: int = 10, piece: int = 1) -> Stages:
    """Combined, but each sample (or piece of `piece` samples) is drawn `repeats` times in a row: an order, not a stage.

    An epoch of the budget stays as many samples as one pass: 10 epochs with repeats=10 are one pass over the blocks,
    where combined makes 10 shuffled passes; 1 epoch covers the first tenth of the samples, 10 times each.
    """
    require(repeats >= 1, "blocks.repeats", repeats, "must be at least 1")
    require(piece >= 1, "blocks.piece", piece, "must be at least 1 sample")
    return [Stage(mixture=Mixture(parts=tuple(range(n_parts)), repeats=repeats, piece=piece if repeats > 1 else 1))]
