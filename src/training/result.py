"""What training one stage leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from src.stopping.group import Best
from src.stopping.rule import StoppedBy


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What a stage did: `updates` and `samples` seen, `epochs` begun, why it ended; `converged` is None where the
    stopping rule does not ask; `best_epoch` (from 1) is that of the weights early stopping went back to; `extra_passes`:
    forward and backward passes of one sample besides those of the updates, for a penalty; `split`: what ended a larger
    group, of which the stage's is a part (memory that was too small, or another member's failure)."""

    updates: int
    samples: int
    epochs: int
    stopped_by: StoppedBy
    converged: bool | None
    best_epoch: int | None
    seconds: float
    group: int
    engine: Literal["loop", "vmap"]
    device: str
    extra_passes: float = 0.0
    split: str | None = None

    @property
    def diverged(self) -> bool:
        """Whether the loss stopped being finite."""
        return self.stopped_by == "diverged"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Curves:
    """What was seen on the way, at T points of a stage.

    `steps` int64 [T]: updates since the stage began. `train_loss` [T]: mean over the updates since the point before.
    `recall`, `loss`: for every validation pool [T, n_classes], mean over the pool's samples of each class (regression: one
    column, recall undefined). Any set's accuracy follows by its class weights, so stages can be shared between cells
    whose sets weigh the same pools differently.
    """

    steps: NDArray[np.int64]
    train_loss: NDArray[np.float64]
    recall: tuple[NDArray[np.float64], ...]
    loss: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True, eq=False)
class StageResult:
    """Final weights (parameters and buffers by name), optimizer state by ``key/name`` where a later stage needs it,
    curves and ledger of one stage."""

    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor] | None
    curves: Curves
    ledger: Ledger
    resume_point: ResumePoint | None = None
    """What a longer stage goes on from, where one may; kept beside the entry, not in it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ResumePoint:
    """A model part-way through its stage: everything that the rest of the stage, and its curves, depend on, to the bit.

    `updates` made, in `seconds`; `reused`: samples of them that were trained for another, shorter stage. `losses`
    [updates]: the training loss of every update. `curves`: the points so far. `noise`: state of the model's own generator,
    inside an epoch. Batch orders, the learning rate, and what a penalty holds on to follow from the stage.
    """

    updates: int
    reused: int
    seconds: float
    device: str
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    losses: Tensor
    curves: Curves
    noise: Tensor | None = None
    best: Best | None = None
