"""Which samples a stage trains on and in which order: addressed by (seed, digest of the data, epoch) alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.data.stream import Samples, Stream
from src.regimes.stage import Mixture
from src.seeds import generator

Positions = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MixtureData:
    """The training samples of one stage of one seed, and how an epoch draws from them."""

    seed: int
    parts: tuple[Samples, ...]
    """Positions count through the concatenation of these."""
    pools: tuple[Positions, ...]
    """Positions to draw from, each pool in the order of sample ids."""
    counts: tuple[int, ...] | None
    """Draws from each pool in one epoch; None: one pool, every sample once."""
    balanced: bool
    """Whether the draws of all pools but the last are balanced over classes."""
    repeats: int
    """How often each run of `piece` draws is repeated."""
    piece: int
    digest: str
    """Names the content and the drawing: equal samples share it, however they are divided into data sets."""
    even: bool = False
    """Whether every batch has the counts' shares: the draws of the last pool lie evenly between the others."""
    targets: Tensor | None = None
    """What is trained on in place of the labels, see `src.training.targets`."""

    @property
    def n_samples(self) -> int:
        """Distinct training samples."""
        return sum(len(pool) for pool in self.pools)

    @property
    def n_draws(self) -> int:
        """Samples drawn in one epoch."""
        return (self.n_samples if self.counts is None else sum(self.counts)) * self.repeats

    @property
    def labels(self) -> Tensor:
        """Labels or targets of the concatenated parts."""
        return torch.cat([part.y for part in self.parts])

    def rows_by_part(self, positions: Positions) -> Iterator[tuple[Samples, Positions, Tensor]]:
        """Every part with the places in `positions` that are its own, and its rows at them."""
        start = 0
        for part in self.parts:
            here = np.flatnonzero((positions >= start) & (positions < start + len(part)))
            yield part, here, part.rows[torch.from_numpy(positions[here] - start)]
            start += len(part)

    def order(self, epoch: int) -> Positions:
        """Draws of one epoch (counted from 0): positions [n_draws]."""
        rng = generator(self.seed, "order", self.digest, epoch)
        if self.counts is None:
            drawn = rng.permutation(self.pools[0])
        else:
            earlier = self.labels.numpy() if self.balanced else None
            labels = [*[earlier] * (len(self.pools) - 1), None]
            chosen = [_draw(*pool, rng) for pool in zip(self.pools, self.counts, labels, strict=True)]
            drawn = _evenly(chosen, rng) if self.even else rng.permutation(np.concatenate(chosen))
        if self.repeats == 1:
            return drawn
        pieces = np.split(drawn, range(self.piece, len(drawn), self.piece))
        return np.concatenate([np.tile(piece, self.repeats) for piece in pieces])


def mixture_data(stream: Stream, mixture: Mixture, n_counted: int | None = None) -> MixtureData:
    """The data of a stage. `n_counted`: draws in one epoch if the mixture has shares (the size of the new data)."""
    present = [k for k in mixture.parts if len(stream.train[k])]
    counts: tuple[int, ...] | None = None
    if mixture.shares is not None and present:
        assert n_counted is not None
        shares = [share for share, k in zip(mixture.shares, mixture.parts, strict=True) if k in present]
        drawn = [round(share * n_counted / sum(shares)) for share in shares[:-1]]
        counts = (*drawn, n_counted - sum(drawn))
        if not any(drawn):  # nothing comes from the earlier data: this is a stage on the last part alone
            present, counts = present[-1:], None
    parts = tuple(stream.train[k] for k in present)
    offsets = np.cumsum([0, *(len(part) for part in parts)])
    pools: tuple[Positions, ...]
    if counts is None:
        pools = (_by_id(parts, 0),) if parts else (np.empty(0, np.int64),)
        if mixture.chunk is not None:
            pools = (_chunk(pools[0], parts, stream.seed, *mixture.chunk),)
        if mixture.memory is not None and mixture.shares is None and parts:
            pools = (_in_memory(pools[0], parts, mixture, stream.seed),)
    elif mixture.memory is not None:
        pool = _in_memory(_by_id(parts[:-1], 0), parts[:-1], mixture, stream.seed)
        pools, counts = (pool, _by_id(parts[-1:], int(offsets[-2]))), (sum(counts[:-1]), counts[-1])
    else:
        pools = tuple(_by_id((part,), int(offset)) for part, offset in zip(parts, offsets, strict=False))
    balanced, even = mixture.balanced and counts is not None, mixture.even and counts is not None
    piece = mixture.piece if mixture.repeats > 1 else 1
    drawing = f"{counts}|{balanced}|{mixture.repeats}" + (f"|{piece}" if piece > 1 else "") + "|even" * even
    digest = hashlib.blake2b(drawing.encode(), digest_size=16)
    for pool in pools:
        digest.update(_content(parts, pool))
    return MixtureData(stream.seed, parts, pools, counts, balanced, mixture.repeats, piece, digest.hexdigest(), even)


def _tags(parts: tuple[Samples, ...]) -> tuple[list[str], Positions]:
    """The distinct contents of the parts, sorted, and the index of every position's content."""
    contents = sorted({part.content for part in parts})
    tags = np.concatenate([np.full(len(part), contents.index(part.content), np.int64) for part in parts])
    return contents, tags


def _by_id(parts: tuple[Samples, ...], offset: int) -> Positions:
    """Positions of the samples in the order of their ids, then of their contents."""
    ids = torch.cat([part.ids for part in parts]).numpy()
    _, tags = _tags(parts)
    return np.lexsort((tags, ids)).astype(np.int64) + offset


def _content(parts: tuple[Samples, ...], pool: Positions) -> bytes:
    """Names the samples at the positions, regardless of their data sets."""
    if not parts:
        return b"empty"
    contents, tags = _tags(parts)
    used = np.unique(tags[pool])
    h = hashlib.blake2b(digest_size=16)
    h.update("|".join(contents[k] for k in used).encode())
    h.update(np.searchsorted(used, tags[pool]).tobytes())
    h.update(torch.cat([part.ids for part in parts]).numpy()[pool].tobytes())
    h.update(torch.cat([part.y for part in parts]).numpy()[pool].tobytes())
    return h.digest()


def _in_memory(pool: Positions, parts: tuple[Samples, ...], mixture: Mixture, seed: int) -> Positions:
    """Those of the pool that the mixture's memory keeps, in the pool's order."""
    assert mixture.memory is not None
    return pool[np.isin(pool, remembered(parts, mixture.memory, mixture.kept, seed))]


def _evenly(chosen: Sequence[Positions], rng: np.random.Generator) -> Positions:
    """The draws of the last pool evenly between those of the others, in random order."""
    new, earlier = chosen[-1], rng.permutation(np.concatenate(chosen[:-1]))
    i, n = np.arange(len(new) + len(earlier)), len(new) + len(earlier)
    is_earlier = (i + 1) * len(earlier) // n > i * len(earlier) // n
    drawn = np.empty(n, np.int64)
    drawn[is_earlier], drawn[~is_earlier] = earlier, new
    return drawn


def _chunk(pool: Positions, parts: tuple[Samples, ...], seed: int, index: int, n_chunks: int) -> Positions:
    """Chunk `index` of `n_chunks` of the pool in the seed's order, sorted by id; one chunk is the whole pool."""
    order = generator(seed, "order", "chunks", _content(parts, pool).hex()).permutation(len(pool))
    return pool[np.sort(np.array_split(order, n_chunks)[index])]


def _draw(pool: Positions, count: int, labels: NDArray[np.generic] | None, rng: np.random.Generator) -> Positions:
    """`count` positions of the pool, none twice before all are drawn; with `labels`, cycling through the classes."""
    if labels is None:
        rounds = -(-count // len(pool)) if count else 1
        return np.concatenate([rng.permutation(pool) for _ in range(rounds)])[:count]
    classes = rng.permutation(np.unique(labels[pool]))
    per_class = -(-count // len(classes)) if count else 1
    columns = [_draw(pool[labels[pool] == label], per_class, None, rng) for label in classes]
    return np.stack(columns, axis=1).reshape(-1)[:count]


# ------------------------------------------------------------------------------------------------ memory


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
