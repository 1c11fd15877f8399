"""The parts of a regime: stages, each one uninterrupted training phase on one mixture of data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from src.typed import content


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The training samples that a stage draws from: the union of some data sets, permuted in every epoch."""

    parts: tuple[int, ...]
    """Data sets of the stream, counted from 0."""
    shares: tuple[float, ...] | None = None
    """Fraction of an epoch's draws from each part; None: every sample once."""
    balanced: bool = False
    """Whether draws from the parts before the last (replayed data) are balanced over classes."""
    chunk: tuple[int, int] | None = None
    """(k, n): the k-th (from 0) of n pieces of the union in the seed's order."""
    repeats: int = 1
    """How many times in a row each piece is drawn; an epoch passes over `repeats` times as many draws."""
    piece: int = 1
    """Draws that are repeated together."""
    memory: int | None = None
    """How many samples of the parts before the last (of all parts, without shares) are kept to draw from; None: all."""
    kept: Literal["reservoir", "balanced", "greedy"] = "reservoir"
    """Which: ``reservoir``, a uniform sample; ``balanced``, equally many of each class; ``greedy``, see
    `src.data.batches`."""
    even: bool = False
    """Whether every batch has the shares (to one draw), not only the epoch."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The origin of a stage's initial weights."""

    kind: Literal["fresh", "previous", "shrink_perturb", "dash", "average", "file"] = "fresh"
    """``fresh``: the seed's initial weights. ``previous``: the final weights of stage `of[0]`. ``shrink_perturb``:
    those times `shrink`, plus `perturb` times freshly drawn initial weights (Ash & Adams 2020). ``dash``: those shrunk
    by direction to no less than `shrink` (see `src.training.starting`), from gradients averaged with weight `alpha`.
    ``average``: the mean of the final weights of the stages `of` under `weights`. ``file``: the checkpoint `path` (see
    `src.regimes.checkpoint`)."""
    of: tuple[int, ...] = ()
    shrink: float = 1.0
    perturb: float = 0.0
    weights: tuple[float, ...] = ()
    path: str | None = None
    alpha: float = 0.3


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """The parameters that a stage trains."""

    kind: Literal["all", "last", "after", "pattern"] = "all"
    """``last``: the last `layers` layers with parameters. ``after``: all but the first `layers` layers. ``pattern``:
    those whose names match the regular expression `pattern`."""
    layers: int = 1
    pattern: str = ""


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """A term added to the loss that holds the stage near the final weights (or outputs) of an earlier one."""

    kind: Literal["none", "l2_sp", "l2_init", "ewc", "ewc_full", "lwf"] = "none"
    """``ewc_full``: elastic weight consolidation with the whole Fisher matrix."""
    strength: float = 0.0
    """Factor on the term."""
    temperature: float = 2.0
    """Of the softmaxes of learning without forgetting."""
    new_classes: bool = False
    """Whether the softmax of the trained model includes the classes that are new in the stage, which the earlier model
    gives probability 0."""
    of: int | None = 0
    """The stage whose result the term refers to; None: the seed's initial weights."""

    def recipe(self) -> dict[str, Any]:
        """What equal penalties have in common, whichever stage they refer to."""
        return content(replace(self, of=0), ("new_classes",))


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the samples of the parts before the last are trained to give."""

    kind: Literal["labels", "model", "outputs"] = "labels"
    """``labels``: their own labels. ``model``: the labels that a trained network gives them. ``outputs``: its
    outputs."""
    of: tuple[int, ...] = ()
    """The stage whose network that is, for each of these parts."""
    strength: float = 1.0
    """``outputs``: factor on the mean squared distance to them."""
    labels: float = 0.0
    """``outputs``: factor on the loss of their own labels, which is added."""


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A condition on the cell without which a knob of a regime is refused, as `regime.{knob}={value}: {problem}`."""

    needs: Literal["samples", "parameters", "classes", "cross_entropy", "seen"]
    """``samples``: at least `limit` training samples. ``parameters``: at most `limit` of them in the network.
    ``classes``: labels instead of regression targets. ``cross_entropy``: that loss. ``seen``: split.heads=seen."""
    knob: str
    """Regime and knob, e.g. ``chunked.n_chunks``."""
    value: object
    problem: str
    """The message; ``{n}`` stands for the number that the cell has."""
    limit: int = 0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training phase."""

    mixture: Mixture
    start: Start = Start()
    trainable: Trainable = Trainable()
    penalty: Penalty = Penalty()
    targets: Targets = Targets()
    reset_optimizer: bool = True
    """Whether the optimizer starts without state (momentum)."""
    lr_factor: float = 1.0
    batch_factor: int = 1
    """Factor on the batch size."""
    counts_as: tuple[int, ...] | None = None
    """Data sets whose size decides the stage's share of the budget (None: the mixture's own). Replay trains on the
    mixture but makes the updates of Dataset 2 alone."""
    budget: float = 1.0
    """Factor on the stage's budget; 0: no training at all (the average of two models)."""
    requires: tuple[Requirement, ...] = field(default=(), compare=False)
    """What the cell must have for this stage."""
