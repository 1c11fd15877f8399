"""How a data set sees the samples of its source: shifted or not, with the labels that the stream gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.data.draw import Draw
from src.data.shifts import ShiftConfig
from src.data.source import Source
from src.data.stream import Bank, Evaluations, EvaluationSet, Rows, Samples, View
from src.seeds import generator


def plain_view(source: Source, drawn: Draw, first_id: int, labels: Rows | None = None) -> View:
    """The source as it is, under the stream's class numbers, or under `labels` [classes] of those classes."""
    if labels is not None:
        y = torch.from_numpy(
            np.append(labels, -1)[drawn.classes]
        )  # the last is for rows of no class, which have class -1
        return View(source.bank, None, y, drawn.classes, source.digest, first_id, shares_labels=True)
    y = source.y if source.is_regression else torch.from_numpy(drawn.classes)
    return View(source.bank, None, y, drawn.classes, source.digest, first_id)


def shifted_view(plain: View, shift: ShiftConfig, rows: Rows, present: NDArray[np.bool_], seed: int, part: int) -> View:
    """`plain` as data set `part` (counted from 0) sees it. `rows`: all it will be asked for, which alone are shifted;
    `present` [classes]: the classes it has."""
    if (exchange := shift.rule.labels) is not None:
        new_label = np.append(np.arange(len(present)), -1)  # the last is for rows of no class, which have class -1
        for old, new in exchange(np.flatnonzero(present).tolist(), shift.amount, seed, part).items():
            new_label[old] = new
        return View(
            plain.bank, None, torch.from_numpy(new_label[plain.classes]), plain.classes, plain.content, plain.first_id
        )
    row_of = np.full(len(plain.y), -1, np.int64)
    row_of[rows] = np.arange(len(rows))
    bank = Bank(shift.shifted(plain.bank.x, rows, seed, part), plain.bank.mean, plain.bank.std)
    draw = f" seed={seed}" if shift.rule.is_seeded else ""
    content = f"{plain.content} {shift.kind}={shift.amount!r} part={part}{draw}"
    return View(bank, row_of, plain.y, plain.classes, content, plain.first_id, plain.shares_labels)


def noisy_labels(view: View, present: NDArray[np.bool_], share: float, seed: int, number: int) -> Tensor:
    """The labels of a view, each wrong with probability `share`: another of those `present`, all alike.

    `present` [labels]. Every row of source `number` has a draw of its own, so noise nests: in subsets, and in smaller shares.
    """
    known = np.flatnonzero(present)
    labels = view.y.numpy()
    is_wrong = generator(seed, "data", "label_noise", number).random(len(labels)) < share
    place = np.searchsorted(known, labels).clip(max=len(known) - 1)
    other = generator(seed, "data", "label_noise", number, "class").integers(0, len(known) - 1, len(labels))
    wrong = known[other + (other >= place)]
    return torch.from_numpy(np.where(is_wrong & (labels >= 0), wrong, labels))


def evaluations(views: Sequence[View], held_out: Sequence[Rows], train: NDArray[np.int64]) -> Evaluations:
    """The evaluation sets `d1`, `d2`, ..., `union` over the held-out rows.

    `views[part]`, `held_out[part]`: of each data set; equal views share a pool. `train` [parts, classes]: training
    counts. Within a pool a sample of class c weighs prior_c / n_c, its data set's training prior over the pool's count;
    the union mixes the data sets by their training sizes. Regression is one class, so its weights are uniform.
    """
    parts = [part for part in range(len(views)) if train[part].any()]
    pool_views = list({id(views[part]): views[part] for part in parts}.values())
    pools: list[Samples] = []
    sets: dict[str, EvaluationSet] = {}
    union: dict[int, Tensor] = {}
    for number, view in enumerate(pool_views):
        owners = [part for part in parts if views[part] is view]
        is_asked = np.asarray(train[owners].sum(axis=0) > 0)
        rows = held_out[owners[0]]
        rows = rows[is_asked[view.classes[rows]]]
        classes = view.classes[rows]
        pools.append(view.samples(rows))
        n_in_pool = np.maximum(np.bincount(classes, minlength=train.shape[1]), 1)
        union[number] = torch.zeros(len(rows), dtype=torch.float64)
        for part in owners:
            weights = torch.from_numpy((train[part] / train[part].sum() / n_in_pool)[classes])
            sets[f"d{part + 1}"] = EvaluationSet({number: weights})
            union[number] += weights * (train[part].sum() / train.sum())
    ordered: Mapping[str, EvaluationSet] = {name: sets[name] for name in sorted(sets, key=lambda name: int(name[1:]))}
    return Evaluations(tuple(pools), {**ordered, "union": EvaluationSet(union)})
