"""Which samples a memory keeps: addressed by seed and content, so that a later memory draws on what an earlier one
kept."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from src.data.stream import Samples
from src.seeds import generator

Positions = NDArray[np.int64]


def remembered(
    parts: tuple[Samples, ...], size: int, kept: Literal["reservoir", "balanced", "greedy"], seed: int
) -> Positions:
    """Positions in the concatenated `parts` of at most `size` samples, in ascending order.

    Every sample has a random key. ``reservoir`` keeps those of the smallest keys: a uniform sample, the one that
    Vitter's algorithm R keeps of the stream in distribution. ``balanced`` keeps the smallest keys of each class in
    turn. ``greedy`` passes through the parts in order (see `_greedy`).
    """
    keys = np.concatenate([_keys(part, seed) for part in parts])
    if kept == "reservoir":
        return np.sort(np.argsort(keys, kind="stable")[:size])
    labels = torch.cat([part.y for part in parts]).numpy()
    if kept == "balanced":
        rank = np.empty(len(keys), np.int64)
        for label in np.unique(labels):
            own = np.flatnonzero(labels == label)
            rank[own[np.argsort(keys[own], kind="stable")]] = np.arange(len(own))
        return np.sort(np.lexsort((keys, rank))[:size])
    number = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return _greedy(np.lexsort((keys, number)), labels, size, generator(seed, "order", "greedy memory"))


def _keys(part: Samples, seed: int) -> NDArray[np.float64]:
    """A random key of each sample, the same in whatever subset it appears."""
    ids = part.ids.numpy()
    drawn = generator(seed, "order", "memory", part.content).random(int(ids.max()) + 1)
    return np.asarray(drawn[ids], np.float64)


def _greedy(arriving: Positions, labels: NDArray[np.int64], size: int, rng: np.random.Generator) -> Positions:
    """GDumb's sampler (Prabhu et al. 2020, algorithm 1): a sample is taken while its class has fewer than its equal
    share of the memory; when the memory is full, a random sample of the largest class makes room."""
    held: dict[int, list[int]] = {}
    n_held = 0
    for position in arriving.tolist():
        label = int(labels[position])
        own = held.get(label)
        if own is not None and len(own) >= size / len(held):
            continue
        if n_held >= size:
            largest = max(held.values(), key=len)
            largest.pop(int(rng.integers(len(largest))))
            n_held -= 1
        held.setdefault(label, []).append(position)
        n_held += 1
    return np.sort(np.array([position for own in held.values() for position in own], np.int64))
