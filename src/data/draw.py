"""Which samples of a source each data set gets.

One permutation per class, drawn by the seed, orders the samples of that class: first the test set (unless the source has
its own), then the validation set, then training samples. So held-out sets depend on the seed alone, never on sizes, ratios,
imbalance or shift, and training samples come from the front of what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.data.counts import Allotment, class_labels
from src.data.source import Source
from src.data.stream import Rows
from src.seeds import generator


@dataclass(frozen=True, eq=False)
class Draw:
    """Rows of one source for one seed, in ascending order.

    `train[part]`: empty for a data set that draws from another source. `val`, `test`: of the classes that are trained
    on. `classes` [N]: the stream's class of every row of the source, -1 if the stream does not have that class.
    """

    train: tuple[Rows, ...]
    val: Rows
    test: Rows
    classes: Rows


def draw(number: int, source: Source, allotment: Allotment, seed: int) -> Draw:
    """Draw the training and held-out samples of source `number` (0: Dataset 1's)."""
    labels = class_labels(source)
    is_official = np.zeros(len(labels), bool)
    if uses_official := allotment.uses_official[number]:
        assert source.official_test is not None
        is_official = source.official_test.numpy()
    parts = allotment.parts_of(number)
    train: list[list[Rows]] = [[] for _ in allotment.data_source]
    val: list[Rows] = []
    test: list[Rows] = []
    for c, label in enumerate(allotment.classes):
        if not allotment.train[parts, c].any():
            continue
        is_member = labels == label
        order = generator(seed, "data", "order", number, label).permutation(np.flatnonzero(is_member & ~is_official))
        n_test, n_val = (0 if uses_official else int(allotment.test[number, c])), int(allotment.val[number, c])
        test.append(np.flatnonzero(is_member & is_official) if uses_official else order[:n_test])
        val.append(order[n_test : n_test + n_val])
        divided = divide(order[n_test + n_val :], allotment.train[parts, c].tolist())
        for part, rows in zip(parts, divided, strict=True):
            train[part].append(rows)
    number_of = np.full(int(labels.max()) + 1, -1, np.int64)
    number_of[list(allotment.classes)] = np.arange(len(allotment.classes))
    return Draw(tuple(_merge(rows) for rows in train), _merge(val), _merge(test), number_of[labels])


def divide(order: Rows, counts: Sequence[int]) -> list[Rows]:
    """Divide the first sum(counts) of `order` among the data sets.

    Sample i goes to the last data set iff floor((i+1)f) > floor(i f), f being its share of all samples, in exact integer
    arithmetic; the same rule divides the rest among the others.
    """
    rest = order[: sum(counts)]
    divided = []
    for count in reversed(counts):
        i = np.arange(len(rest))
        is_taken = (i + 1) * count // max(len(rest), 1) > i * count // max(len(rest), 1)
        divided.append(rest[is_taken])
        rest = rest[~is_taken]
    return divided[::-1]


def _merge(rows: Sequence[Rows]) -> Rows:
    return np.sort(np.concatenate([np.empty(0, np.int64), *rows]))
