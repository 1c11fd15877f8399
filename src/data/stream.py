"""What training gets: a sequence of data sets with their validation and test sets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.io import bytes_digest

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Bank:
    """A table of inputs that many sample sets share; batches gather and scale its rows.

    `x`: [N, C, H, W] (or [N, features]) on the CPU, uint8 (0..255) or floating point, possibly memory-mapped.
    `mean`, `std`: [C] of pixels scaled to 0..1, for uint8 and float images; None: x is used as it is.
    """

    x: Tensor
    mean: Tensor | None = None
    std: Tensor | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.x.shape[1:])

    def scale(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Scale raw rows [n, ...] of the bank, on any device, to what the network sees."""
        out = x.to(dtype, copy=True)  # the operations below are in place: images are large
        if x.dtype == torch.uint8:
            out.div_(255)
        if self.mean is not None and self.std is not None:
            shape = (1, -1) + (1,) * (out.ndim - 2)
            out.sub_(self.mean.to(out).view(shape)).div_(self.std.to(out).view(shape))
        return out


@dataclass(frozen=True, eq=False)
class Samples:
    """A set of labelled samples: rows of a bank with their labels.

    `rows`: int64 [n] into `bank.x`. `y`: int64 [n] classes, or float [n, k] targets. `ids`: int64 [n], the samples'
    names in their source; unique inside one source and the same whatever the seed, subset or shift. `content`: names
    the inputs (source digest, shift, seed where it matters), so that equal digests mean equal tensors. `classes`: int64
    [n], the stream's class of every sample if several classes share a label; None: the labels are the classes.
    """

    bank: Bank
    rows: Tensor
    y: Tensor
    ids: Tensor
    content: str
    classes: Tensor | None = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        content = self.content.encode() + self.ids.numpy().tobytes() + self.y.numpy().tobytes()
        object.__setattr__(self, "digest", bytes_digest(content, 16))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def groups(self) -> NDArray[np.int64]:
        """The groups within which an evaluation set has equal weights, [n]: classes; all 0 for a regression."""
        if self.y.is_floating_point():
            return np.zeros(len(self), np.int64)
        return (self.y if self.classes is None else self.classes).numpy()

    def inputs(self, dtype: torch.dtype = torch.float32, kept: Tensor | None = None) -> Tensor:
        """Inputs scaled as the network sees them, [n, ...]: of all samples, or of the `kept` positions."""
        return self.bank.scale(self.bank.x[self.rows if kept is None else self.rows[kept]], dtype)


@dataclass(frozen=True, eq=False)
class View:
    """Rows of a source as samples of a stream."""

    bank: Bank
    row_of: Rows | None
    """[N] row in `bank` of every row of the source, -1 if absent; None: the same rows."""
    y: Tensor
    """[N] or [N, k] label of every row after the stream's numbering and the shift."""
    classes: Rows
    """[N] the stream's class before a shift."""
    content: str
    """Names the bank's inputs."""
    first_id: int
    """Id of row 0."""
    shares_labels: bool = False
    """Whether several classes may have one label."""

    def samples(self, rows: Rows, y: Tensor | None = None) -> Samples:
        """Samples of the given rows; `y` [N] overrides the view's own labels."""
        in_bank = torch.from_numpy(rows if self.row_of is None else self.row_of[rows])
        labels = (self.y if y is None else y)[torch.from_numpy(rows)]
        classes = torch.from_numpy(self.classes[rows]) if self.shares_labels else None
        return Samples(self.bank, in_bank, labels, torch.from_numpy(rows + self.first_id), self.content, classes)


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Weighted samples of one or more pools: `weights[pool]` is float64 [len(pool)]; all weights together sum to 1.

    The weights turn a mean over shared pools into the mean under the set's own class priors and mixture.
    """

    weights: Mapping[int, Tensor]


@dataclass(frozen=True, eq=False)
class Evaluations:
    """Pools of held-out samples and the named sets (`d1`, `d2`, ..., `union`, perhaps `old`, `new`) that weigh them.

    Every pool is evaluated once; a data set without a shift shares the pool of Dataset 1. An empty data set has no set
    (its metrics are null).
    """

    pools: tuple[Samples, ...]
    sets: Mapping[str, EvaluationSet]


@dataclass(frozen=True, eq=False)
class Population:
    """A distribution with known risks: x = root z with z ~ N(0, I), y = target . x + noise of deviation `noise`.

    `root`: [d, r], the covariance of the inputs is root root'. `target`: the true weights [d].
    """

    root: NDArray[np.float64]
    target: NDArray[np.float64]
    noise: float


class Generator(Protocol):
    """A source that draws each data set of a stream from a distribution of its own."""

    def views(self, source_digest: str, train: Sequence[Rows], seed: int) -> tuple[tuple[Population, ...], list[View]]:
        """The distribution and the samples of each data set; `train`: the rows that each trains on."""


@dataclass(frozen=True, eq=False)
class Stream:
    """The data of one seed: `train[k]` is Dataset k+1; `val` and `test` are held out and never trained on.

    `n_outputs`: classes, or target columns for regression. `class_counts[k][c]`: samples of class c in Dataset k+1.
    `class_names`: in the order of the labels; None for regression. `imbalance`: realised n_max / n_min of Dataset 1
    (None for regression, or if a prior leaves a class out). `populations`: the distribution of each data set, if it is
    known (data=gaussian, regression, no shift of inputs).
    """

    seed: int
    train: tuple[Samples, ...]
    val: Evaluations
    test: Evaluations
    n_outputs: int
    class_counts: tuple[tuple[int, ...], ...]
    imbalance: float | None
    populations: tuple[Population, ...] | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, e.g. (1, 8, 8)."""
        return self.train[0].bank.input_shape

    @property
    def digest(self) -> str:
        """Names everything in the stream."""
        h = hashlib.blake2b(digest_size=16)
        for samples in (*self.train, *self.val.pools, *self.test.pools):
            h.update(samples.digest.encode())
        for evaluations in (self.val, self.test):
            for name in sorted(evaluations.sets):
                h.update(name.encode())
                for pool, weights in sorted(evaluations.sets[name].weights.items()):
                    h.update(f"{pool}".encode() + weights.numpy().tobytes())
        return h.hexdigest()
