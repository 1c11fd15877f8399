"""How many samples of each class go where: the arithmetic of a split, the same for every seed."""

from __future__ import annotations

import bisect
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.data.source import Source, class_label, class_number
from src.data.split_config import SplitConfig
from src.errors import ConfigError

Counts = NDArray[np.int64]
Weights = NDArray[np.float64]

DEFAULT_TEST_SHARE = 0.2
"""Held out for the test if neither `split.test` nor the source itself says which samples these are."""

UNIT = 10**9
"""Parts of one sample: remainders are compared as whole numbers of them, so that equal ones compare equal."""

WITHOUT_CLASSES = {"classes": None, "priors": None, "labels": None, "imbalance": 1, "label_noise": 0}
"""Settings of a split that need classes, and their values without effect."""


@dataclass(frozen=True, eq=False)
class Allotment:
    """The counts of a split. A regression counts as one class.

    `classes[c]`: the source's number of the stream's class c. `train` [data sets, classes]: training samples.
    `data_source[k]`: the number of the source that data set k draws from. `val`, `test`, `left`, `needed` [sources,
    classes]: samples that are held out, that are left for training, and that the data sets of the source need.
    `uses_official[s]`: whether the test set of source s is its own.
    """

    classes: tuple[int, ...]
    train: Counts
    data_source: tuple[int, ...]
    val: Counts
    test: Counts
    left: Counts
    needed: Counts
    uses_official: tuple[bool, ...]

    def parts_of(self, number: int) -> list[int]:
        """The data sets that draw from source `number`."""
        return [part for part, source in enumerate(self.data_source) if source == number]


def allot(split: SplitConfig, sources: Sequence[Source]) -> Allotment:
    """Count the samples of a split. `sources`: Dataset 1's, then the other data sets' if that is another one.

    Raises ConfigError if the sources lack a class or samples; the message names what fits.
    """
    allotment = _allot(split, sources)
    _check_available(split, sources, allotment)
    return allotment


def _allot(split: SplitConfig, sources: Sequence[Source]) -> Allotment:
    """The counts; what is left for training may be less than what is needed."""
    classes = stream_classes(split, sources[0])
    sizes = split.dataset_sizes()
    priors = _checked_priors(split, sizes, sources, classes)
    train = (
        np.concatenate([class_counts(sizes[k : k + 1], priors[k : k + 1]) for k in range(len(sizes))])
        if split.shared
        else class_counts(sizes, priors)
    )
    data_source = tuple(min(part, len(sources) - 1) for part in range(len(sizes)))
    held_out = [_held_out(split, one, classes) for one in sources]
    left, val, test = (np.stack(counts) for counts in zip(*held_out, strict=True))
    total = np.max if split.shared else np.sum
    needed = np.stack([total(train[np.equal(data_source, number)], axis=0) for number in range(len(sources))])
    official = tuple(uses_official(split, source) for source in sources)
    return Allotment(classes, train, data_source, val, test, left, needed, official)


def own_split(split: SplitConfig, source: Source) -> SplitConfig:
    """The split with sizes and priors filled in if the user's own data sets are given without any.

    Each is then used whole, with its own class balance, as a user with two folders expects.
    """
    requested = (split.size, split.ratio, split.sizes, split.priors, split.classes)
    if not source.later or split.imbalance != 1 or any(r is not None for r in requested):
        return split
    classes = stream_classes(split, source)
    sources = (source, *source.later)
    left = np.stack([_held_out(split, one, classes)[0] for one in sources])
    for part, one in enumerate(sources, start=1):
        total = np.bincount(class_labels(one), minlength=len(classes))
        for c in np.flatnonzero((total > 0) & (left[part - 1] == 0)).tolist():
            what = "samples" if source.class_names is None else f"of class {source.class_names[c]}"
            problem = f"Dataset {part} has {total[c]} {what}, which are all held out"
            raise ConfigError(
                "split.val", split.val, f"{problem} for validation and the test; add some or remove the class"
            )
    sizes = left.sum(axis=1)
    priors = None if source.is_regression else tuple(tuple((row / row.sum()).tolist()) for row in left)
    return dataclasses.replace(split, sizes=tuple(sizes.tolist()), priors=priors)


def stream_classes(split: SplitConfig, source: Source) -> tuple[int, ...]:
    """The classes of the source that the stream numbers 0, 1, ...: those of a flat `split.classes`, or all."""
    if source.is_regression:
        for key, neutral in WITHOUT_CLASSES.items():
            if (value := getattr(split, key)) != neutral:
                fix = f"needs classes, this is regression; set {json.dumps(neutral)}"
                raise ConfigError(f"split.{key}", value, fix)
        return (0,)
    names = source.class_names
    assert names is not None
    if isinstance(split.labels, tuple) and len(split.labels) != len(names):
        fix = f"must list a label for each of the source's {len(names)} classes"
        raise ConfigError("split.labels", list(split.labels), fix)
    every = tuple(range(len(names)))
    if split.classes is None:
        return every
    nested, flat = numbered_classes(split, source)
    if nested and split.priors is not None:
        raise ConfigError("split.classes", split.classes, "contradicts split.priors, where 0 leaves a class out")
    if not nested and len(flat) < 2:
        raise ConfigError("split.classes", split.classes, "leaves one class for all data sets; list 2 or more")
    return every if nested else flat


def numbered_classes(split: SplitConfig, source: Source) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """`nested_classes` and `flat_classes` of the split as class numbers of the source."""

    def number(given: int | str) -> int:
        found = class_number(source, given)
        if found is None:
            known = [str(class_label(source, k)) for k in range(len(source.class_names or ()))]
            shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            raise ConfigError("split.classes", split.classes, f"there is no class {given}; there are {shown}")
        return found

    nested = [tuple(map(number, subset)) for subset in split.nested_classes]
    flat = tuple(map(number, split.flat_classes))
    if any(len(set(subset)) < len(subset) for subset in [*nested, flat]):
        raise ConfigError("split.classes", split.classes, "lists a class by its label and its name; leave one out")
    return nested, flat


def class_priors(split: SplitConfig, n_classes: int, nested: Sequence[tuple[int, ...]] = ()) -> Weights:
    """Share of each class in each data set, [data sets, classes], in rows that sum to 1.

    `nested`: the numbers of each data set's classes, if they have different ones. Class k of K has weight
    imbalance^(-k/(K-1)) in Dataset 1, and in the reverse order in Dataset 2 (and every second one after) if
    `split.opposed`; a data set with a class subset counts k within it.
    """
    if split.priors is not None:
        return np.array(split.priors, np.float64)
    priors = np.zeros((split.parts, n_classes))
    for part in range(split.parts):
        subset = nested[part] if nested else tuple(range(n_classes))
        weights = split.imbalance ** (-np.arange(len(subset)) / max(len(subset) - 1, 1))
        priors[part, list(subset)] = weights[::-1] if split.opposed and part % 2 else weights
    return np.asarray(priors / priors.sum(axis=1, keepdims=True))


def classes_by_part(split: SplitConfig, sources: Sequence[Source], classes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The stream's classes that each data set may have; nothing if all have all of them.

    They are the subsets of `split.classes`, or else what the user's own two sources hold. `classes`: see `Allotment`.
    """
    nested, _ = numbered_classes(split, sources[0])
    if nested or len(sources) == 1 or sources[0].is_regression:
        return nested
    held = [np.bincount(class_labels(one), minlength=len(one.class_names or ()))[list(classes)] > 0 for one in sources]
    if all(own.all() for own in held):
        return []
    for part, own in enumerate(held, start=1):
        if not own.any():
            raise ConfigError(
                "split.classes", split.classes, f"leaves Dataset {part} without a class; list some of its"
            )
    return [tuple(np.flatnonzero(held[min(part, len(held) - 1)]).tolist()) for part in range(split.parts)]


def _checked_priors(
    split: SplitConfig, sizes: tuple[int, ...], sources: Sequence[Source], classes: tuple[int, ...]
) -> Weights:
    for prior in split.priors or ():
        if len(prior) != len(classes):
            problem = f"has {len(prior)} shares for {len(classes)} classes; list all"
            raise ConfigError("split.priors", list(prior), problem)
    priors = class_priors(split, len(classes), classes_by_part(split, sources, classes))
    for part, size in enumerate(sizes):
        n_present = int((priors[part] > 0).sum())
        if 0 < size < n_present:
            problem = f"Dataset {part + 1} would have {size} samples for {n_present} classes"
            raise ConfigError(*_size_key(split), f"{problem}; it needs at least one of each")
    return priors


def class_counts(sizes: Sequence[int], priors: Weights) -> Counts:
    """Training samples of each class in each data set, [data sets, classes].

    By largest remainder, at least 1 unless the prior is 0. If all data sets have the same priors, their union is
    apportioned first, then what precedes the last data set, and so on: the union depends on the total size alone.
    """
    counts = np.zeros(priors.shape, np.int64)
    if (priors != priors[0]).any():
        for part, size in enumerate(sizes):
            counts[part] = apportion(size, priors[part], lowest=int(size > 0))
        return counts
    upto = apportion(sum(sizes), priors[0], lowest=sum(size > 0 for size in sizes))
    for part in reversed(range(len(sizes))):
        if sizes[part]:
            n_before = sum(size > 0 for size in sizes[:part])
            before = apportion(sum(sizes[:part]), priors[0], lowest=n_before, highest=upto - 1)
            counts[part], upto = upto - before, before
    return counts


def apportion(n: int, prior: Weights, lowest: int = 0, highest: Counts | None = None) -> Counts:
    """Divide `n` by `prior` with the method of the largest remainder; ties go to the lower class.

    Each class with a prior above 0 gets at least `lowest` and at most `highest[c]`. What these limits add or remove is
    balanced where a count is farthest from its exact share.
    """
    share = np.rint(n * prior * UNIT).astype(np.int64)
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
    """Whether the test set is the source's own: it has one, and `split.test` requests no share."""
    return split.test is None and source.official_test is not None


def class_labels(source: Source) -> NDArray[np.int64]:
    """The class of every sample; a regression has one."""
    return np.zeros(len(source), np.int64) if source.is_regression else source.y.numpy()


def _held_out(split: SplitConfig, source: Source, classes: tuple[int, ...]) -> tuple[Counts, Counts, Counts]:
    """Samples of each class left for training, held out for validation, and held out for the test.

    `split.test` is a share of the whole source; `split.val` too, or a share of what is not in the source's own test set
    if that is used. Both are rounded class by class, and at least 1.
    """

    def count(rows: NDArray[np.int64]) -> Counts:
        return np.bincount(rows, minlength=max(classes) + 1)[list(classes)]

    def share_of(counts: Counts, share: float) -> Counts:
        return np.asarray(np.maximum(1, np.floor(counts * share + 0.5)), np.int64)

    labels = class_labels(source)
    total = count(labels)
    if uses_official(split, source):
        assert source.official_test is not None
        test = count(labels[source.official_test.numpy()])
        val = share_of(total - test, split.val)
    else:
        test = share_of(total, DEFAULT_TEST_SHARE if split.test is None else split.test)
        val = share_of(total, split.val)
    return np.maximum(total - test - val, 0), val, test


def _check_available(split: SplitConfig, sources: Sequence[Source], allotment: Allotment) -> None:
    for number, source in enumerate(sources):
        needed, left = allotment.needed[number], allotment.left[number]
        names = ["the source"] if source.class_names is None else [f"class {name}" for name in source.class_names]
        for c in np.flatnonzero(needed).tolist():
            if allotment.test[number, c] == 0:
                problem = f"{names[allotment.classes[c]]} has no sample in the source's own test set"
                raise ConfigError("split.test", None, f"{problem}; set a share, e.g. split.test=0.2")
        c = int((needed - left).argmax())
        if needed[c] > left[c]:
            key, value = _size_key(split)
            owners = " and ".join(f"Dataset {part + 1}" for part in allotment.parts_of(number))
            problem = (
                f"{owners} would need {needed[c]} training samples of {names[allotment.classes[c]]}, but "
                f"{left[c]} are left besides {allotment.val[number, c]} for validation and "
                f"{allotment.test[number, c]} for the test"
            )
            fixes = _fixes(split, sources, allotment.classes[c])
            raise ConfigError(key, value, f"{problem}; {' or '.join(fixes)}")


def _fixes(split: SplitConfig, sources: Sequence[Source], scarce: int) -> list[str]:
    """What makes the split possible, each tried: a smaller size, less imbalance, less held out, or without a class."""
    source, fixes = sources[0], []
    if split.sizes is None and (size := _largest_fit(split, sources)):
        fixes.append(f"lower split.size to at most {size}")
    if split.imbalance > 1 and _is_possible(dataclasses.replace(split, imbalance=1.0), sources):
        fixes.append("lower split.imbalance")
    least = dataclasses.replace(split, val=1e-9, test=None if uses_official(split, source) else 1e-9)
    if _is_possible(least, sources):
        fixes.append("hold out less (split.val, split.test)")
    if split.priors is None and not split.nested_classes and source.class_names is not None:
        rest = tuple(class_label(source, c) for c in stream_classes(split, source) if c != scarce)
        if len(rest) > 1 and _is_possible(dataclasses.replace(split, classes=rest), sources):
            listed = f"split.classes={json.dumps(rest).replace(' ', '')}"
            fixes.append(f"leave the class out with {listed if len(rest) <= 20 else 'split.classes'}")
    return fixes or ["add samples" if split.sizes is None else "add samples, or lower split.sizes"]


def _largest_fit(split: SplitConfig, sources: Sequence[Source]) -> int:
    """The largest size that fits; 0 if none does."""

    def is_too_large(size: int) -> bool:
        smaller = dataclasses.replace(split, size=size)
        return not (_is_too_small(smaller, sources) or _is_possible(smaller, sources))

    size = bisect.bisect_left(range(sum(split.dataset_sizes())), True, lo=1, key=is_too_large) - 1
    fitting = dataclasses.replace(split, size=size)
    return size if size and not _is_too_small(fitting, sources) and _is_possible(fitting, sources) else 0


def _is_too_small(split: SplitConfig, sources: Sequence[Source]) -> bool:
    """Whether a data set is smaller than its number of classes."""
    classes = stream_classes(split, sources[0])
    priors = class_priors(split, len(classes), classes_by_part(split, sources, classes))
    return any(size < (prior > 0).sum() for size, prior in zip(split.dataset_sizes(), priors, strict=True))


def _is_possible(split: SplitConfig, sources: Sequence[Source]) -> bool:
    """Whether the sources have the samples that the split needs."""
    try:
        found = _allot(split, sources)
    except ConfigError:
        return False
    return bool((found.needed <= found.left).all() and found.test[found.needed > 0].all())


def _size_key(split: SplitConfig) -> tuple[str, str]:
    if split.sizes is not None:
        return "split.sizes", json.dumps(list(split.sizes))
    return "split.size", str(sum(split.dataset_sizes()))
