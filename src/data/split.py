"""How a source becomes a stream: Dataset 1, Dataset 2, ..., with their validation and test sets.

docs/DEFINITIONS.md has the definitions; counts.py says how many samples of each class, draw.py
draws them and applies shifts and labels.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.data.counts import Allotment, allot, classes_by_part, numbered_classes, own_split, stream_classes
from src.data.draw import draw, evaluations, noisy_labels, plain_view, shifted_view
from src.data.source import Source, class_label
from src.data.sources.base import SourceConfig
from src.data.sources.catalog import load_shift_source
from src.data.split_config import SplitConfig
from src.data.stream import Bank, Population, Rows, Stream
from src.errors import ConfigError
from src.io import bytes_digest


@dataclass(frozen=True, eq=False)
class StreamFactory:
    """The sources of a cell, loaded once, from which each seed draws its stream."""

    split: SplitConfig
    source: Source
    shift_source: Source | None = None
    """The source of `split.shift.source`."""

    @functools.cached_property
    def sources(self) -> tuple[Source, ...]:
        """Dataset 1's source and, if the other data sets have others, theirs."""
        later = self.source.later if self.shift_source is None else (self.shift_source,)
        return (self.source, *later)

    @functools.cached_property
    def allotment(self) -> Allotment:
        """The counts of the split. Raises ConfigError if the sources lack a class or samples."""
        return allot(self.split, self.sources)

    @functools.cached_property
    def digest(self) -> str:
        """Names the content of all sources: the data's part of a content hash."""
        first, *others = (source.digest for source in self.sources)
        return bytes_digest("|".join([first, *others]).encode(), 16) if others else first

    @functools.cached_property
    def numbered_split(self) -> SplitConfig:
        """The split with class numbers of the source in place of labels and names: its part of a content hash."""
        nested, flat = numbered_classes(self.split, self.source)
        return dataclasses.replace(self.split, classes=(tuple(nested) or flat) if self.split.classes else None)

    @property
    def chosen_classes(self) -> str | None:
        """The classes that the split selects or gives priors or labels; None if it does not."""
        names, split = self.source.class_names, self.split
        if names is None or not (split.classes or split.priors or split.labels):
            return None
        classes = stream_classes(split, self.source)
        nested = classes_by_part(split, self.sources, classes)
        subsets = [tuple(classes[c] for c in subset) for subset in nested] or [classes]
        shown = [", ".join(names[c] for c in subset[:20]) + ", ..." * (len(subset) > 20) for subset in subsets]
        if not nested:
            return shown[0]
        return "; ".join(f"Dataset {part}: {text}" for part, text in enumerate(shown, start=1))

    @property
    def labels(self) -> Rows | None:
        """The label of every class of the stream, [classes]; None if each has its own."""
        labels = self.split.labels
        return np.array([labels[c] for c in self.allotment.classes], np.int64) if isinstance(labels, tuple) else None

    @functools.cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the stream's labels in order, those of classes that share one joined; None for regression."""
        if self.source.class_names is None:
            return None
        own, labels = [self.source.class_names[c] for c in self.allotment.classes], self.labels
        if labels is None:
            return tuple(own)
        shared = [[name for name, label in zip(own, labels, strict=True) if label == k] for k in range(max(labels) + 1)]
        return tuple("/".join(names) for names in shared)

    @property
    def n_outputs(self) -> int:
        """Outputs of a network for the stream: labels, or target columns for regression."""
        names = self.class_names
        return self.source.n_outputs if names is None else len(names)

    def check(self) -> None:
        """Raise ConfigError if the sources cannot give the split; `SplitConfig.check` refuses what needs no data."""
        split, n_sources = self.split, len(self.sources)
        split.shift.check_source(self.source)
        if n_sources > 1 and split.parts != n_sources:
            problem = f"has no meaning with a source for each of {n_sources} data sets; set it to {n_sources}"
            raise ConfigError("split.parts", split.parts, problem)
        n_labels = self._present_labels().sum()
        if split.label_noise and n_labels < 2:
            raise ConfigError("split.label_noise", split.label_noise, "needs 2 classes or more to confuse; set it to 0")

    def _present_labels(self) -> NDArray[np.bool_]:
        """Whether any data set has samples of a label, [labels]."""
        totals, labels = self.allotment.train.sum(axis=0), self.labels
        return np.asarray((totals if labels is None else np.bincount(labels, weights=totals)) > 0)

    def build(self, seed: int) -> Stream:
        """The stream of one seed: equal factories give equal streams in any process.

        Data sets without a shift share the bank of their source; a shifted one has a bank of only the rows it uses. Ids
        of a later source continue those of the one before.
        """
        split, source, sources, allotment = self.split, self.source, self.sources, self.allotment
        train, labels = allotment.train, self.labels
        draws = [draw(number, one, allotment, seed, is_shared=split.shared) for number, one in enumerate(sources)]
        first_ids = itertools.accumulate(map(len, sources[:-1]), initial=0)
        plain = [plain_view(*each, labels) for each in zip(sources, draws, first_ids, strict=True)]
        draw_of = [draws[number] for number in allotment.data_source]
        rows_of = [drawn.train[part] for part, drawn in enumerate(draw_of)]
        views = [plain[number] for number in allotment.data_source]
        populations: tuple[Population, ...] | None = None
        if source.generator is not None and len(sources) == 1:
            populations, views = source.generator.views(source.digest, rows_of, seed)
        if split.shift.is_active:
            for part in range(1, len(views)):
                if (present := train[part] > 0).any():
                    held_out = np.concatenate([draw_of[part].val, draw_of[part].test])
                    rows = np.sort(np.concatenate([rows_of[part], held_out[present[draw_of[part].classes[held_out]]]]))
                    views[part] = shifted_view(views[part], split.shift, rows, present, seed, part)
        noisy: list[Tensor | None] = [None] * len(views)
        if split.label_noise:
            present = self._present_labels()
            numbered = zip(views, allotment.data_source, strict=True)
            noisy = [noisy_labels(view, present, split.label_noise, seed, number) for view, number in numbered]
        class_counts = tuple(
            () if source.is_regression else tuple(np.bincount(view.y.numpy()[rows], minlength=self.n_outputs).tolist())
            for view, rows in zip(views, rows_of, strict=True)
        )
        fewest = min(class_counts[0], default=0)
        by_novelty = not split.nested_classes and bool(classes_by_part(split, sources, allotment.classes))
        return Stream(
            seed=seed,
            train=tuple(view.samples(rows, y) for view, rows, y in zip(views, rows_of, noisy, strict=True)),
            val=evaluations(views, [drawn.val for drawn in draw_of], train, by_novelty=by_novelty),
            test=evaluations(views, [drawn.test for drawn in draw_of], train, by_novelty=by_novelty),
            n_outputs=self.n_outputs,
            class_counts=class_counts,
            imbalance=max(class_counts[0]) / fewest if fewest else None,
            populations=None if split.shift.is_active else populations,
            class_names=self.class_names,
        )


def load(
    data: SourceConfig, split: SplitConfig, cache: Path, loaded: dict[object, Source] | None = None
) -> StreamFactory:
    """Load the sources of a cell and check that its split is possible.

    `cache`: folder for decoded images if the data root is read-only. `loaded`: sources by their settings, filled here,
    so that the cells of a grid read a source once.
    """
    loaded = {} if loaded is None else loaded
    if data not in loaded:
        loaded[data] = data.load(cache)
    source = loaded[data]
    shift_source = None
    if (name := split.shift.source) is not None:
        address = (data, name)
        if address not in loaded:
            loaded[address] = load_shift_source(name, data, source, cache)
        shift_source = loaded[address]
    source = _prepared(source, split)
    shift_source = None if shift_source is None else _prepared(shift_source, split)
    split = own_split(_labelled(_matched(split, source), source), source)
    factory = StreamFactory(split, source, shift_source)
    factory.check()
    return factory


def _prepared(source: Source, split: SplitConfig) -> Source:
    """The source with padded images and on the scale that the split demands."""
    if not split.pad and split.pixels == "standard":
        return source
    bank = source.bank
    if bank.x.ndim != 4:
        key, value = ("pad", split.pad) if split.pad else ("pixels", split.pixels)
        raise ConfigError(
            f"split.{key}", value, f"is for images, and samples are {list(bank.input_shape)}; leave it out"
        )
    x = torch.nn.functional.pad(bank.x, [split.pad] * 4) if split.pad else bank.x
    half = torch.full((x.shape[1],), 0.5, dtype=torch.float64) if split.pixels == "signed" else None
    changed = Bank(x, bank.mean, bank.std) if split.pixels == "standard" else Bank(x, half, half)
    address = f"{source.digest} pad={split.pad} pixels={split.pixels}"
    digest = bytes_digest(address.encode(), 16)
    later = tuple(_prepared(one, split) for one in source.later)
    return dataclasses.replace(source, bank=changed, digest=digest, later=later)


def _matched(split: SplitConfig, source: Source) -> SplitConfig:
    """The split once the classes of two sources are as `split.labels=same` or `union` demands."""
    if not isinstance(split.labels, str):
        return split
    if split.labels == "same" and source.class_names is not None:
        held = [{source.class_names[c] for c in set(one.y.tolist())} for one in (source, *source.later)]
        if differ := sorted(set().union(*held) - held[0].intersection(*held)):
            problem = f"not every data set has {', '.join(differ)}; rename or remove these classes, or set union"
            raise ConfigError("split.labels", split.labels, problem)
    return dataclasses.replace(split, labels=None)


def _labelled(split: SplitConfig, source: Source) -> SplitConfig:
    """The split with every class under its label, or its name if it has none, so that equal subsets have equal text."""
    if split.classes is None or source.is_regression:
        return split
    nested, flat = numbered_classes(split, source)
    subsets = [tuple(class_label(source, c) for c in subset) for subset in nested or [flat]]
    return dataclasses.replace(split, classes=tuple(subsets) if nested else subsets[0])
