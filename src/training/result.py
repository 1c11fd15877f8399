"""What training a stage produces: weights, curves and ledger, or a resume point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from src.stopping.rule import Best, StoppedBy

Captured = Literal["", "graph", "eager"]
"""Whether updates were replayed as a CUDA graph; empty on a CPU, and in older files."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Cost and end of one stage."""

    updates: int
    samples: int
    epochs: int
    """Number of epochs, a partial last one included."""
    stopped_by: StoppedBy
    converged: bool | None
    """None if the stopping rule has no tolerance."""
    best_epoch: int | None
    """The epoch (from 1) whose weights early stopping restored."""
    seconds: float
    group: int
    """Number of models in the group."""
    engine: Literal["loop", "vmap"]
    """`vmap` stands for stacked models: the word of the result files, which older versions wrote."""
    device: str
    extra_passes: float = 0.0
    """Forward and backward passes of one sample that a penalty costs in addition to the updates."""
    online: float | None = None
    """Share of the training draws that were classified correctly just before their update, if the cell asks for it."""
    machines: tuple[str, ...] = ()
    """Kinds of machine that trained the stage, by `fingerprint`. Older files: none."""
    capture: Captured = ""
    capture_reason: str = ""
    """Why they were not."""
    split: str | None = None
    """Failure that split a larger group (out of memory, or another model's exception)."""

    @property
    def diverged(self) -> bool:
        """Whether the loss or the weights became non-finite."""
        return self.stopped_by == "diverged"


@dataclass(frozen=True, eq=False)
class Curves:
    """Validation curves of a stage at T points.

    `steps` int64 [T]: updates since the stage began. `train_loss` [T]: mean over the updates since the previous point.
    `recall`, `loss`: for every validation pool [T, n_classes], mean over the pool's samples of each class (regression:
    one column, recall undefined). A set's accuracy follows by its class weights, so cells whose sets weight the same
    pools differently share stages.
    """

    steps: NDArray[np.int64]
    train_loss: NDArray[np.float64]
    recall: tuple[NDArray[np.float64], ...]
    loss: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True, eq=False)
class StageResult:
    """Final state of one stage."""

    weights: Mapping[str, Tensor]
    """Parameters and buffers by name."""
    optimizer: Mapping[str, Tensor] | None
    """Optimizer state by ``key/name``, if a later stage needs it."""
    curves: Curves
    ledger: Ledger
    resume_point: ResumePoint | None = None
    """Where a longer stage with the same prefix key resumes; stored in a separate file."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ResumePoint:
    """A model inside its stage: everything that determines the rest of the stage and its curves, bit for bit.

    Batch orders, the learning rate and the penalty's anchor follow from the stage itself.
    """

    updates: int
    reused: int
    """Samples that were trained for another, shorter stage."""
    seconds: float
    device: str
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    losses: Tensor
    """Training loss of every update [updates]."""
    curves: Curves
    noise: Tensor | None = None
    """State of the model's own generator, inside an epoch."""
    best: Best | None = None
    machines: tuple[str, ...] = ()
    """Kinds of machine that trained the stage so far; see `Ledger`, also for the two that follow."""
    capture: Captured = ""
    capture_reason: str = ""
