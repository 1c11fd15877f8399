"""The settings of a split: how a source becomes a stream."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from src.data.shifts import ShiftConfig
from src.errors import ConfigError
from src.typed import bounds

DEFAULT_SIZE = 400
DEFAULT_RATIO = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """How a source becomes Dataset 1, Dataset 2, ... and held-out sets: docs/DEFINITIONS.md has the definitions."""

    parts: int = field(metadata=bounds(ge=2))
    """Number of data sets."""
    size: int | None = field(metadata=bounds(ge=2))
    """Training samples of all data sets together; null: 400."""
    ratio: float | None = field(metadata=bounds(gt=0))
    """|D2| / |D1|; null: 1."""
    sizes: tuple[int, ...] | None = field(metadata=bounds(ge=0))
    """[|D1|, |D2|, ...] in place of size and ratio; Dataset 2 may be empty."""
    val: float = field(metadata=bounds(gt=0, lt=1))
    """Share of the source (less its own test set if that is used) held out for validation."""
    test: float | None = field(metadata=bounds(gt=0, lt=1))
    """Share held out for the test; null: the source's own test set, or 0.2 if it has none."""
    imbalance: float = field(metadata=bounds(ge=1))
    """Samples of the most frequent class over those of the rarest."""
    opposed: bool
    """Whether Dataset 2's imbalance has the reverse order of classes."""
    priors: tuple[tuple[float, ...], ...] | None = field(metadata=bounds(ge=0, le=1))
    """In place of imbalance: the share of every class in each data set."""
    classes: tuple[int | str, ...] | tuple[tuple[int | str, ...], ...] | None
    """Labels or names of the classes of all data sets, or a list of them for each data set; null: all."""
    labels: tuple[int, ...] | Literal["union", "same"] | None = field(default=None, metadata=bounds(ge=0))
    """The label of every class of the source, in order; no output distinguishes classes that share one.

    `same` refuses two sources of the user's own whose classes differ; `union`, like null, gives the network an output
    for every class that either has."""
    label_noise: float = field(metadata=bounds(ge=0, lt=1))
    """Share of training labels that are wrong, in all data sets."""
    shift: ShiftConfig
    """How Dataset 2 differs beyond its class balance."""

    shared: bool = False
    """Whether every data set has the same samples of the source, each under its own shift."""
    heads: Literal["shared", "seen", "own"] = "shared"
    """Classes in the softmax: all; those of the data sets learned so far (in training alone); or those of a sample's
    own data set."""
    pixels: Literal["standard", "unit", "signed"] = "standard"
    """Scale of images: mean 0 and deviation 1 for each channel, 0 to 1, or -1 to 1."""
    pad: int = field(default=0, metadata=bounds(ge=0))
    """Black pixels added on each side of an image."""

    def dataset_sizes(self) -> tuple[int, ...]:
        """Number of training samples of each data set of the stream: |D1|, |D2|, ..."""
        if self.sizes is not None:
            return self.sizes
        size = DEFAULT_SIZE if self.size is None else self.size
        ratio = DEFAULT_RATIO if self.ratio is None else self.ratio
        if self.parts == 2:
            n_second = round(size * ratio / (1 + ratio))
            return (size - n_second, n_second)
        whole, rest = divmod(size, self.parts)
        return tuple(whole + (part < rest) for part in range(self.parts))

    @property
    def nested_classes(self) -> list[tuple[int | str, ...]]:
        """The class subset of each data set, or nothing if all have the same classes."""
        return [subset for subset in self.classes or () if isinstance(subset, tuple)]

    @property
    def flat_classes(self) -> tuple[int | str, ...]:
        """The classes that all data sets are limited to, or nothing."""
        return tuple(c for c in self.classes or () if not isinstance(c, tuple))

    def check(self) -> None:
        """Raise ConfigError if the settings contradict each other; `src.data.split` checks them against the data."""

        def refuse(name: str, problem: str, value: object = None) -> ConfigError:
            return ConfigError(f"split.{name}", getattr(self, name) if value is None else value, problem)

        sizes = self.dataset_sizes()
        if self.sizes is not None:
            for name in ("size", "ratio"):
                if getattr(self, name) is not None:
                    raise refuse(name, "contradicts split.sizes; give one of the two")
            if len(sizes) != self.parts:
                fix = f"must list {self.parts} sizes, one for each data set, or set split.parts={len(sizes)}"
                raise refuse("sizes", fix)
            if sizes[0] == 0:
                raise refuse("sizes", "Dataset 1 is empty; its size must be at least 1")
        elif min(sizes) < 1:
            raise refuse("ratio", f"leaves a data set of size {sizes}; raise split.size")
        if self.parts > 2 and self.ratio is not None:
            raise refuse("ratio", "is between two data sets; with split.parts > 2 use split.sizes")
        if self.val + (self.test or 0) >= 1:
            raise refuse("val", f"with split.test={self.test} leaves nothing to train on; lower it")
        if self.priors is not None:
            if self.imbalance != 1:
                raise refuse("imbalance", "contradicts split.priors; give one of the two")
            if len(self.priors) != self.parts:
                raise refuse("priors", f"must list {self.parts} priors, one for each data set")
            for prior in self.priors:
                if not math.isclose(sum(prior), 1, abs_tol=1e-6):
                    raise refuse("priors", f"sums to {sum(prior):g}; a prior must sum to 1", list(prior))
        if self.classes is not None:
            if self.nested_classes and len(self.nested_classes) != self.parts:
                raise refuse("classes", f"must list {self.parts} subsets, one for each data set")
            for subset in self.nested_classes or [self.flat_classes]:
                if len(set(map(str, subset))) < len(subset) or not subset:
                    raise refuse("classes", "must list different classes, at least one")
        if isinstance(self.labels, tuple):
            if len(set(self.labels)) < 2 or sorted(set(self.labels)) != list(range(max(self.labels) + 1)):
                raise refuse("labels", "must number its labels 0, 1, ... without a gap, two or more")
            if self.shift.rule.labels is not None:
                raise refuse("labels", f"contradicts split.shift.kind={self.shift.kind}; drop one")
        if self.shared and (self.shift.rule.inputs is None or not self.shift.is_active):
            raise refuse("shared", "gives equal data sets without a shift of the inputs; set split.shift.kind=permute")
        self.shift.check()
