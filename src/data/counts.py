"""How many samples of each class go where: the arithmetic of a split, the same for every seed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.data.source import Source
from src.data.split_config import SplitConfig
from src.errors import ConfigError

Counts = NDArray[np.int64]
Weights = NDArray[np.float64]

DEFAULT_TEST_SHARE = 0.2
"""Held out for the test where neither `split.test` nor the source itself says which samples these are."""

UNIT = 10**9
"""Parts into which a sample is divided to compare remainders."""


@dataclass(frozen=True, eq=False)
class Allotment:
    """Class c of the stream is class `classes[c]` of the source; regression counts as one class.

    `train` [data sets, classes]: training samples. `data_source[k]`: which source data set k draws from, 0 or 1.
    `val`, `test` [sources, classes]: held-out samples. `uses_official[s]`: source s brings its own test set.
    """

    classes: tuple[int, ...]
    train: Counts
    data_source: tuple[int, ...]
    val: Counts
    test: Counts
    uses_official: tuple[bool, ...]


def allot(split: SplitConfig, sources: Sequence[Source]) -> Allotment:
    """The counts of a split. `sources`: Dataset 1's, then that of all others if it is another one.

    Raises ConfigError for what the sources cannot give: a class that does not exist, fewer samples than asked for, ...
    """
    classes = stream_classes(split, sources[0])
    sizes = split.dataset_sizes()
    train = class_counts(sizes, _checked_priors(split, sizes, len(classes)))
    data_source = tuple(min(part, len(sources) - 1) for part in range(len(sizes)))
    held_out = [_held_out(split, source, classes) for source in sources]
    allotment = Allotment(
        classes,
        train,
        data_source,
        val=np.stack([val for _, val, _ in held_out]),
        test=np.stack([test for _, _, test in held_out]),
        uses_official=tuple(uses_official(split, source) for source in sources),
    )
    _check_available(split, sources, allotment, np.stack([left for left, _, _ in held_out]))
    return allotment


def own_split(split: SplitConfig, source: Source) -> SplitConfig:
    """The split with sizes and priors filled in where the user's own two data sets are asked for nothing else: each is
    used whole, with the class balance it has, as somebody with two folders expects."""
    asked = (split.size, split.ratio, split.sizes, split.priors, split.classes)
    if source.second is None or source.is_regression or split.imbalance != 1 or any(a is not None for a in asked):
        return split
    classes = stream_classes(split, source)
    left = np.stack([_held_out(split, one, classes)[0] for one in (source, source.second)])
    sizes = left.sum(axis=1)
    if not sizes.all():
        return split  # too few to hold anything out: refused with its reason when the counts are made
    priors = tuple(tuple((row / n).tolist()) for row, n in zip(left, sizes, strict=True))
    return dataclasses.replace(split, sizes=tuple(sizes.tolist()), priors=priors)


def stream_classes(split: SplitConfig, source: Source) -> tuple[int, ...]:
    """The classes of the source that the stream numbers 0, 1, ...: those listed in a flat `split.classes`, else all."""
    if source.is_regression:
        for key in ("classes", "priors", "labels"):
            if getattr(split, key) is not None:
                raise ConfigError(f"split.{key}", getattr(split, key), "needs classes, this is regression; set null")
        if split.imbalance != 1:
            raise ConfigError("split.imbalance", split.imbalance, "needs classes, this is regression; set 1")
        if split.label_noise:
            raise ConfigError("split.label_noise", split.label_noise, "needs classes, this is regression; set 0")
        return (0,)
    names = source.class_names
    assert names is not None
    if split.labels is not None and len(split.labels) != len(names):
        fix = f"must list a label for each of the source's {len(names)} classes"
        raise ConfigError("split.labels", list(split.labels), fix)
    if split.classes is None:
        return tuple(range(len(names)))
    nested, flat = split.nested_classes, split.flat_classes
    for c in (c for subset in (nested or [flat]) for c in subset):
        if c >= len(names):
            known = ", ".join(f"{k} {name}" for k, name in enumerate(names[:20])) + (", ..." if len(names) > 20 else "")
            raise ConfigError("split.classes", split.classes, f"there is no class {c}; there are {known}")
    if nested:
        if split.priors is not None:
            raise ConfigError("split.classes", split.classes, "contradicts split.priors, where 0 leaves a class out")
        return tuple(range(len(names)))
    if len(flat) < 2:
        raise ConfigError("split.classes", split.classes, "leaves one class for all data sets; list 2 or more")
    return flat


def class_priors(split: SplitConfig, n_classes: int) -> Weights:
    """Share of each class in each data set, [data sets, classes], rows that sum to 1.

    Class k of K has weight imbalance^(-k/(K-1)) in Dataset 1, in the reverse order in Dataset 2 (and every second one
    after) where `split.opposed`; a data set with a class subset counts k within it.
    """
    if split.priors is not None:
        return np.array(split.priors, np.float64)
    priors = np.zeros((split.parts, n_classes))
    nested = split.nested_classes
    for part in range(split.parts):
        subset = nested[part] if nested else tuple(range(n_classes))
        weights = split.imbalance ** (-np.arange(len(subset)) / max(len(subset) - 1, 1))
        priors[part, list(subset)] = weights[::-1] if split.opposed and part % 2 else weights
    return np.asarray(priors / priors.sum(axis=1, keepdims=True))


def _checked_priors(split: SplitConfig, sizes: tuple[int, ...], n_classes: int) -> Weights:
    for prior in split.priors or ():
        if len(prior) != n_classes:
            raise ConfigError("split.priors", list(prior), f"has {len(prior)} shares for {n_classes} classes; list all")
    priors = class_priors(split, n_classes)
    key, value = _size_key(split)
    for part, size in enumerate(sizes):
        n_present = int((priors[part] > 0).sum())
        if 0 < size < n_present:
            problem = f"Dataset {part + 1} would have {size} samples for {n_present} classes"
            raise ConfigError(key, value, f"{problem}; it needs at least one of each")
    return priors


def class_counts(sizes: Sequence[int], priors: Weights) -> Counts:
    """Training samples of each class in each data set, [data sets, classes].

    By largest remainder, at least 1 where the prior is not 0. Where all data sets have the same priors their union is
    apportioned first, then what comes before the last one, and so on: the union depends on the total size alone.
    """
    counts = np.zeros(priors.shape, np.int64)
    if (priors == priors[0]).all():
        upto = apportion(sum(sizes), priors[0], lowest=sum(size > 0 for size in sizes))
        for part in reversed(range(len(sizes))):
            if sizes[part]:
                n_before = sum(size > 0 for size in sizes[:part])
                before = apportion(sum(sizes[:part]), priors[0], lowest=n_before, highest=upto - 1)
                counts[part], upto = upto - before, before
    else:
        for part, size in enumerate(sizes):
            counts[part] = apportion(size, priors[part], lowest=int(size > 0))
    return counts


def apportion(n: int, prior: Weights, lowest: int = 0, highest: Counts | None = None) -> Counts:
    """`n` divided by `prior` with the method of the largest remainder, ties to the lower class.

    Each class of a prior above 0 gets at least `lowest`, and at most `highest[c]`; what that takes away or leaves over
    is settled where a count is farthest from its exact share.
    """
    share = np.rint(n * prior * UNIT).astype(np.int64)  # whole numbers, so that equal remainders are found equal
    low = np.where(prior > 0, lowest, 0)
    high = np.where(prior > 0, n if highest is None else highest, 0)
    counts = np.clip(share // UNIT, low, high)
    assert low.sum() <= n <= high.sum(), (n, prior, lowest, highest)
    while counts.sum() < n:
        counts[np.where(counts < high, share - counts * UNIT, -np.inf).argmax()] += 1
    while counts.sum() > n:
        counts[np.where(counts > low, counts * UNIT - share, -np.inf).argmax()] -= 1
    return counts


def uses_official(split: SplitConfig, source: Source) -> bool:
    """Whether the source's own test set is the test set: it has one, and `split.test` does not ask for a share."""
    return split.test is None and source.official_test is not None


def class_labels(source: Source) -> NDArray[np.int64]:
    """The class of every sample; regression has one."""
    return np.zeros(len(source), np.int64) if source.is_regression else source.y.numpy()


def _held_out(split: SplitConfig, source: Source, classes: tuple[int, ...]) -> tuple[Counts, Counts, Counts]:
    """Samples of each class left to train on, for validation and for the test.

    `split.test` is a share of the whole source. `split.val` is a share of the whole source too, or of what is not in
    the source's own test set where that is used. Both are rounded class by class, and are at least 1.
    """
    labels = class_labels(source)
    total = np.bincount(labels, minlength=max(classes) + 1)[list(classes)]
    if uses_official(split, source):
        assert source.official_test is not None
        test = np.bincount(labels[source.official_test.numpy()], minlength=max(classes) + 1)[list(classes)]
        val = _rounded_share(total - test, split.val)
    else:
        test = _rounded_share(total, DEFAULT_TEST_SHARE if split.test is None else split.test)
        val = _rounded_share(total, split.val)
    return np.maximum(total - test - val, 0), val, test


def _rounded_share(counts: Counts, share: float) -> Counts:
    return np.asarray(np.maximum(1, np.floor(counts * share + 0.5)), np.int64)


def _check_available(split: SplitConfig, sources: Sequence[Source], allotment: Allotment, left: Counts) -> None:
    for number, source in enumerate(sources):
        parts = [part for part, where in enumerate(allotment.data_source) if where == number]
        asked = allotment.train[parts].sum(axis=0)
        names = ["the source"] if source.class_names is None else [f"class {name}" for name in source.class_names]
        for c in np.flatnonzero(asked).tolist():
            if allotment.test[number, c] == 0:
                problem = f"{names[allotment.classes[c]]} has no sample in the source's own test set"
                raise ConfigError("split.test", None, f"{problem}; set a share, e.g. split.test=0.2")
        c = int((asked - left[number]).argmax())
        if asked[c] > left[number, c]:
            key, value = _size_key(split)
            owners = " and ".join(f"Dataset {part + 1}" for part in parts)
            fixes = f"lower {key}{_largest_fit(split, sources, allotment)}"
            fixes += ", lower split.imbalance" if split.imbalance > 1 else ""
            problem = (
                f"{owners} would need {asked[c]} training samples of {names[allotment.classes[c]]}, but {left[number, c]} "
                f"are left beside {allotment.val[number, c]} for validation and {allotment.test[number, c]} for the test"
            )
            raise ConfigError(key, value, f"{problem}; {fixes}, or hold out less")


def _largest_fit(split: SplitConfig, sources: Sequence[Source], allotment: Allotment) -> str:
    """The largest size that fits, as advice: ` to at most N`; nothing if none does or each size was given."""
    if split.sizes is not None:
        return ""
    fits, too_large = 0, sum(split.dataset_sizes())
    while too_large - fits > 1:
        size = (fits + too_large) // 2
        smaller = dataclasses.replace(split, size=size)
        fits, too_large = (size, too_large) if _fits(smaller, sources, allotment) else (fits, size)
    return f" to at most {fits}" if fits else ""


def _fits(split: SplitConfig, sources: Sequence[Source], allotment: Allotment) -> bool:
    sizes = split.dataset_sizes()
    priors = class_priors(split, len(allotment.classes))
    if any(0 < size < (prior > 0).sum() for size, prior in zip(sizes, priors, strict=True)):
        return True  # too small rather than too large
    train = class_counts(sizes, priors)
    for number, source in enumerate(sources):
        left, _, _ = _held_out(split, source, allotment.classes)
        parts = [part for part, where in enumerate(allotment.data_source) if where == number]
        if (train[parts].sum(axis=0) > left).any():
            return False
    return True


def _size_key(split: SplitConfig) -> tuple[str, str]:
    if split.sizes is not None:
        return "split.sizes", json.dumps(list(split.sizes))
    return "split.size", str(sum(split.dataset_sizes()))
