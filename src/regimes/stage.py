"""What a regime is made of: stages, each one uninterrupted training phase on one mixture of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Which training samples a stage draws from.

    `parts`: data sets of the stream, counted from 0; the mixture is their union, sorted by sample id and then permuted anew
    every epoch. `shares`: fraction of an epoch's draws that comes from each part (None: every sample once);
    `balanced`: what is drawn from the parts before the last (replayed data) is balanced over classes. `chunk` = (k, n):
    the k-th (from 0) of n pieces of the union in the seed's order. `repeats`: each `piece` draws so many times in a row (an
    ordering inside one stage), every epoch then being a pass over `repeats` times as many draws.
    """

    parts: tuple[int, ...]
    shares: tuple[float, ...] | None = None
    balanced: bool = False
    chunk: tuple[int, int] | None = None
    repeats: int = 1
    piece: int = 1


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a stage's weights come from.

    ``fresh``: the seed's initial weights. ``previous``: the final weights of stage `of[0]`. ``shrink_perturb``: those
    times `shrink`, plus `perturb` times freshly drawn initial weights (Ash & Adams 2020). ``average``: the mean of the
    final weights of the stages `of` under `weights`. ``file``: the checkpoint `path` (see `src.regimes.checkpoint`).
    """

    kind: Literal["fresh", "previous", "shrink_perturb", "average", "file"] = "fresh"
    of: tuple[int, ...] = ()
    shrink: float = 1.0
    perturb: float = 0.0
    weights: tuple[float, ...] = ()
    path: str | None = None


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """Which parameters a stage trains: ``all``; ``last`` the last `layers` layers with parameters; ``pattern`` those
    whose name matches the regular expression `pattern`; ``after`` all but the first `layers` layers."""

    kind: Literal["all", "last", "after", "pattern"] = "all"
    layers: int = 1
    pattern: str = ""


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """A term added to the loss that holds the stage near the final weights (or outputs) of an earlier one.

    ``ewc_full``: elastic weight consolidation with the whole Fisher matrix. `strength` multiplies the term; `temperature` is that of learning without forgetting. `of` is the stage held on to.
    """

    kind: Literal["none", "l2_sp", "ewc", "ewc_full", "lwf"] = "none"
    strength: float = 0.0
    temperature: float = 2.0
    of: int = 0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training phase. `counts_as`: data sets whose size decides the stage's share of the budget (None: the mixture's
    own); replay trains on the mixture but makes the updates of Dataset 2 alone. `budget`: factor on the stage's budget;
    0 means no training at all (the average of two models)."""

    mixture: Mixture
    start: Start = Start()
    trainable: Trainable = Trainable()
    penalty: Penalty = Penalty()
    reset_optimizer: bool = True
    lr_factor: float = 1.0
    counts_as: tuple[int, ...] | None = None
    budget: float = 1.0
