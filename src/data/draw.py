"""Which samples of a source each data set gets, and how it sees them: shifted or not, under the stream's labels.

One permutation per class, drawn by the seed, orders the samples of that class: first the test set (unless the source
has its own), then the validation set, then training samples. So held-out sets depend on the seed alone, never on sizes,
ratios, imbalance or shift, and training samples come from the front of what is left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.data.counts import Allotment, class_labels
from src.data.shifts import ShiftConfig
from src.data.source import Source
from src.data.stream import Bank, Evaluations, EvaluationSet, Rows, Samples, View
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


def draw(number: int, source: Source, allotment: Allotment, seed: int, *, is_shared: bool = False) -> Draw:
    """Draw the training and held-out samples of source `number` (0: Dataset 1's). `is_shared`: for all data sets."""
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
        rest, counts = order[n_test + n_val :], allotment.train[parts, c].tolist()
        divided = [rest[:count] for count in counts] if is_shared else divide(rest, counts)
        for part, rows in zip(parts, divided, strict=True):
            train[part].append(rows)
    number_of = np.full(max(int(labels.max()), *allotment.classes) + 1, -1, np.int64)
    number_of[list(allotment.classes)] = np.arange(len(allotment.classes))
    return Draw(tuple(_merge(rows) for rows in train), _merge(val), _merge(test), number_of[labels])


def divide(order: Rows, counts: Sequence[int]) -> list[Rows]:
    """Divide the first sum(counts) of `order` among the data sets.

    Sample i goes to the last data set iff floor((i+1)f) > floor(i f), f being its share of all samples, in exact
    integer arithmetic; the same rule divides the rest among the others.
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


def plain_view(source: Source, drawn: Draw, first_id: int, labels: Rows | None = None) -> View:
    """The source without a shift, under the stream's class numbers, or under the `labels` of those [classes]."""
    y = source.y if source.is_regression else torch.from_numpy(drawn.classes)
    if labels is not None:
        y = torch.from_numpy(np.append(labels, -1)[drawn.classes])  # rows of no class have class -1, the last entry
    return View(source.bank, None, y, drawn.classes, source.digest, first_id, shares_labels=labels is not None)


def shifted_view(plain: View, shift: ShiftConfig, rows: Rows, present: NDArray[np.bool_], seed: int, part: int) -> View:
    """`plain` as data set `part` (counted from 0) sees it under an active shift.

    `rows`: all that the data set uses; only these are shifted. `present` [classes]: whether it has samples of a class.
    """
    if (exchange := shift.rule.labels) is not None:
        new_label = np.append(np.arange(len(present)), -1)  # rows of no class have class -1, the last entry
        for old, new in exchange(np.flatnonzero(present).tolist(), shift.amount, seed, part).items():
            new_label[old] = new
        return dataclasses.replace(plain, y=torch.from_numpy(new_label[plain.classes]))
    row_of = np.full(len(plain.y), -1, np.int64)
    row_of[rows] = np.arange(len(rows))
    bank = Bank(shift.shifted(plain.bank.x, rows, seed, part), plain.bank.mean, plain.bank.std)
    address = f" seed={seed}" if shift.rule.is_seeded else ""
    content = f"{plain.content} {shift.kind}={shift.amount!r} part={part}{address}"
    return dataclasses.replace(plain, bank=bank, row_of=row_of, content=content)


def noisy_labels(view: View, present: NDArray[np.bool_], share: float, seed: int, number: int) -> Tensor:
    """The labels of a view, each replaced with probability `share` by another of those `present` [labels], uniformly.

    Every row of source `number` has its own draw, so noise nests: in subsets, and in smaller shares.
    """
    known = np.flatnonzero(present)
    labels = view.y.numpy()
    is_wrong = generator(seed, "data", "label_noise", number).random(len(labels)) < share
    index = np.searchsorted(known, labels).clip(max=len(known) - 1)
    other = generator(seed, "data", "label_noise", number, "class").integers(0, len(known) - 1, len(labels))
    wrong = known[other + (other >= index)]
    return torch.from_numpy(np.where(is_wrong & (labels >= 0), wrong, labels))


def evaluations(
    views: Sequence[View], held_out: Sequence[Rows], train: NDArray[np.int64], *, by_novelty: bool = False
) -> Evaluations:
    """The evaluation sets `d1`, `d2`, ..., `union` over the held-out rows, and, `by_novelty`, `old` and `new`.

    `old` and `new` are the union's samples of the classes that Dataset 1 has, and of the others; they exist if Dataset
    2 has both kinds, since else they are `d1` and `d2`. Within a pool a sample of class c weighs prior_c / n_c: its
    data set's training prior over the pool's count. The union mixes the data sets by their training sizes. A regression
    is one class, so its weights are uniform. Equal views share a pool. `held_out`: rows of each data set's source.
    `train` [data sets, classes]: training counts.
    """
    parts = [part for part in range(len(views)) if train[part].any()]
    pool_views = list({id(views[part]): views[part] for part in parts}.values())
    pools: list[Samples] = []
    sets: dict[str, EvaluationSet] = {}
    union: dict[int, Tensor] = {}
    classes_of: list[Rows] = []
    for number, view in enumerate(pool_views):
        owners = [part for part in parts if views[part] is view]
        is_needed = np.asarray(train[owners].sum(axis=0) > 0)
        rows = held_out[owners[0]]
        rows = rows[is_needed[view.classes[rows]]]
        classes = view.classes[rows]
        classes_of.append(classes)
        pools.append(view.samples(rows))
        n_in_pool = np.maximum(np.bincount(classes, minlength=train.shape[1]), 1)
        union[number] = torch.zeros(len(rows), dtype=torch.float64)
        for part in owners:
            weights = torch.from_numpy((train[part] / train[part].sum() / n_in_pool)[classes])
            sets[f"d{part + 1}"] = EvaluationSet({number: weights})
            union[number] += weights * (train[part].sum() / train.sum())
    ordered = {name: sets[name] for part in parts if (name := f"d{part + 1}")} | {"union": EvaluationSet(union)}
    is_old = train[0] > 0
    if by_novelty and (train[1:][:, ~is_old] > 0).any() and (train[1:][:, is_old] > 0).any():
        for name, chosen in (("old", is_old), ("new", ~is_old)):
            kept = {n: weights * torch.from_numpy(chosen[classes_of[n]]) for n, weights in union.items()}
            total = sum(float(weights.sum()) for weights in kept.values())
            ordered[name] = EvaluationSet({n: weights / total for n, weights in kept.items()})
    return Evaluations(tuple(pools), ordered)
