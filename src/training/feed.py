"""Feeds: a group's batches, gathered from tensors on the device or streamed through a DataLoader."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.data.augment import augmented, chances
from src.data.batches import MixtureData, Positions
from src.data.stream import Bank, Samples
from src.stopping.length import Length
from src.training.devices import Device

Batch = tuple[Tensor, Tensor, int]
"""Inputs [R, b, ...], labels [R, b] (or targets [R, b, k]), and b over all ranks together."""


class IndexChunk:
    """Batches of a `ResidentFeed` before their inputs are gathered, on the CPU; not a dataclass, since Lightning moves those.

    `tensors`: rows of the table [U, R, b], labels [U, R, b, ...] and, of augmented images, their randomness [U, R, b, 3].
    """

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])


RAW_ABOVE_MIB = 64
"""Size above which a table keeps bytes and scales them batch by batch, in a quarter of the memory."""

ROWS_AT_ONCE = 4096
"""Rows that are scaled together; all at once would take three times the memory."""

UPDATES_IN_INDEX_CHUNK = 256
"""Largest number of updates of an index chunk: a fraction of a second on a GPU."""

CHUNK_MIB = 32
"""Size of a Lightning batch; Lightning requests the next one before it has used the last."""


class Table:
    """The rows that sample sets use, each once, on the device, scaled unless that is too large."""

    def __init__(self, groups: Sequence[Sequence[Samples]], device: Device) -> None:
        used = _rows_of_banks(groups)
        banks = [bank for bank, _ in used.values()]
        n_rows = sum(len(rows) for _, rows in used.values())
        scaled_bits = n_rows * math.prod(banks[0].input_shape) * torch.finfo(device.dtype).bits
        is_large = scaled_bits / 8 > RAW_ABOVE_MIB * 2**20
        self._scale_by = _placed(banks[0], device) if is_large and _scaled_alike(banks) else None
        self._dtype = device.dtype
        self.rows: list[Tensor]
        """For every group of sample sets, the table's row of each position in their concatenation."""
        if self._scale_by is not None and len(banks) == 1 and device.torch_device.type == "cpu":
            self._x = banks[0].x  # the whole bank, which is in memory anyway, in place of a copy of some rows
            self.rows = [torch.cat([s.rows for s in group]) for group in groups]
            return
        dtype = device.dtype if self._scale_by is None else banks[0].x.dtype
        self._x = torch.empty((n_rows, *banks[0].input_shape), dtype=dtype, device=device.torch_device)
        offsets, end = {}, 0
        for key, (bank, kept) in used.items():
            offsets[key] = end
            for rows in torch.split(kept, ROWS_AT_ONCE):
                start, end = end, end + len(rows)
                self._x[start:end] = bank.scale(bank.x[rows], dtype) if self._scale_by is None else bank.x[rows]
        self.rows = [
            torch.cat([torch.searchsorted(used[id(s.bank)][1], s.rows) + offsets[id(s.bank)] for s in group])
            for group in groups
        ]

    def take(self, rows: Tensor) -> Tensor:
        """Inputs [R, b, ...] of the table's rows [R, b]."""
        x = self._x.index_select(0, rows.flatten())
        if self._scale_by is not None:
            x = self._scale_by.scale(x, self._dtype)
        return x.view(*rows.shape, *x.shape[1:])

    @staticmethod
    def mebibytes(groups: Sequence[Sequence[Samples]], dtype: torch.dtype) -> float:
        """Size of the table of these sample sets."""
        elements = sum(len(rows) * math.prod(bank.input_shape) for bank, rows in _rows_of_banks(groups).values())
        return elements * torch.finfo(dtype).bits / 8 / 2**20


def _rows_of_banks(groups: Sequence[Sequence[Samples]]) -> dict[int, tuple[Bank, Tensor]]:
    """The banks that the sample sets use, by id, with the rows that they use of each, without repetitions."""
    used: dict[int, tuple[Bank, list[Tensor]]] = {}
    for samples in (s for group in groups for s in group):
        used.setdefault(id(samples.bank), (samples.bank, []))[1].append(samples.rows)
    return {key: (bank, torch.unique(torch.cat(rows))) for key, (bank, rows) in used.items()}


def _placed(bank: Bank, device: Device) -> Bank:
    """The bank with its scaling on the device, so that scaling a batch copies nothing there."""
    mean, std = (None if s is None else s.to(device.torch_device, device.dtype) for s in (bank.mean, bank.std))
    return dataclasses.replace(bank, mean=mean, std=std)


def _scaled_alike(banks: Sequence[Bank]) -> bool:
    """Whether all banks hold bytes with the same scaling."""
    scales = {tuple(None if scale is None else tuple(scale.tolist()) for scale in (b.mean, b.std)) for b in banks}
    return len(scales) == 1 and all(bank.x.dtype == torch.uint8 for bank in banks)


def in_one_batch(members: Sequence[MixtureData], length: Length) -> bool:
    """Whether every update sees all samples: the same batch each time."""
    return length.all_at_once and all(member.counts is None and member.repeats == 1 for member in members)


def batch_positions(members: Sequence[MixtureData], length: Length, epoch: int) -> Iterator[Positions]:
    """Positions [R, b] of every batch of one epoch (counted from 0), the stage's last batch cut to its length."""
    # one batch needs no order, which saves a permutation per model and update; decided for every member by itself, since
    # its bits must not depend on the rest of the group
    order = np.stack([m.pools[0] if in_one_batch([m], length) else m.order(epoch) for m in members])
    first = epoch * length.updates_per_epoch
    for k in range(min(length.updates_per_epoch, length.updates - first)):
        start = k * length.batch_size
        stop = min(start + length.batch_size, length.n_draws)
        if first + k + 1 == length.updates:
            seen = epoch * length.n_draws + start
            stop = min(stop, start + length.samples - seen)
        yield order[:, start:stop]


def _labels(member: MixtureData, device: Device) -> Tensor:
    """Classes unchanged, targets in the precision of the training."""
    given = member.labels if member.targets is None else member.targets
    return given.to(device.dtype) if given.is_floating_point() else given


class Feed(ABC):
    """Batches of a group. Each `iter()` is the next epoch, the first one without the updates that are done.

    `augment`: names of random augmentations, see `src.data.augment`.
    """

    def __init__(
        self,
        members: Sequence[MixtureData],
        length: Length,
        device: Device,
        n_done: int = 0,
        augment: Sequence[str] = (),
    ) -> None:
        self.members, self.length, self.device, self.augment = members, length, device, augment
        self.epoch, self.skip = divmod(n_done, length.updates_per_epoch)

    def __iter__(self) -> Iterator[Batch]:
        epoch, skip = self._begin_epoch()
        batches = self._batches(epoch, skip)
        if not self.augment:
            yield from batches
            return
        chosen = self._chances(epoch)
        start = skip * self.length.batch_size
        for x, y, n in batches:
            mine = chosen[:, start : start + n][:, self.device.rank :: self.device.world]
            yield augmented(x, mine, self.augment), y, n
            start += n

    def chunks(self, most: int) -> Iterator[list[Batch]]:
        """The next epoch in lists of at most `most` batches, up to `CHUNK_MIB`."""
        batches = iter(self)
        for first in batches:
            size = min(most, max(1, CHUNK_MIB * 2**20 // max(1, first[0].nbytes)))
            yield [first, *itertools.islice(batches, size - 1)]

    def _begin_epoch(self) -> tuple[int, int]:
        """The next epoch, and the number of its updates that are done."""
        epoch, skip = self.epoch, self.skip
        self.epoch, self.skip = epoch + 1, 0
        return epoch, skip

    def _chances(self, epoch: int) -> Tensor:
        """The randomness of all draws of an epoch [R, n_draws, 3]."""
        return torch.from_numpy(np.stack([chances(member, epoch) for member in self.members]))

    @abstractmethod
    def _batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        """The batches of an epoch (from 0) after the first `skip`, without augmentation."""


class ResidentFeed(Feed):
    """Batches gathered from tensors on the device."""

    def __init__(self, members: Sequence[MixtureData], *rest: Any) -> None:
        super().__init__(members, *rest)
        self.table = Table([member.parts for member in members], self.device)
        self.rows = [rows.numpy() for rows in self.table.rows]
        self.labels = [_labels(member, self.device) for member in members]
        self._whole: Batch | None = None
        """The batch of every epoch, if there is only one."""

    def _batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        device = self.device
        if self._whole is not None and epoch < self.length.updates:
            yield self._whole
            return
        for positions in itertools.islice(batch_positions(self.members, self.length, epoch), skip, None):
            rows, y = self._looked_up(positions[:, device.rank :: device.world])
            rows, y = rows.to(device.torch_device, non_blocking=True), y.to(device.torch_device, non_blocking=True)
            batch = (self.table.take(rows), y, positions.shape[1])
            if in_one_batch(self.members, self.length):
                self._whole = batch
            yield batch

    def _looked_up(self, positions: Positions) -> tuple[Tensor, Tensor]:
        """The table's rows and the labels of positions [R, b], on the CPU."""
        rows = np.stack([rows[p] for rows, p in zip(self.rows, positions, strict=True)])
        labels = [labels[torch.from_numpy(p)] for labels, p in zip(self.labels, positions, strict=True)]
        return torch.from_numpy(rows), torch.stack(labels)

    def index_chunks(self) -> Iterator[IndexChunk]:
        """The next epoch without its inputs: runs of batches of one shape. For a single rank."""
        epoch, skip = self._begin_epoch()
        batches = itertools.islice(batch_positions(self.members, self.length, epoch), skip, None)
        chosen = self._chances(epoch) if self.augment else None
        start = skip * self.length.batch_size
        for n, run in itertools.groupby(batches, key=lambda positions: positions.shape[1]):
            while found := [self._looked_up(positions) for positions in itertools.islice(run, self.chunk_size(n))]:
                tensors = [torch.stack(each) for each in zip(*found, strict=True)]
                end = start + len(found) * n
                if chosen is not None:
                    tensors.append(chosen[:, start:end].view(len(chosen), -1, n, 3).transpose(0, 1))
                yield IndexChunk(*tensors)
                start = end

    def chunk_size(self, n: int) -> int:
        """Largest number of batches of `n` draws in an index chunk; the largest of all for n=0."""
        each = n * len(self.members) * (4 if self.augment else 1) * torch.int64.itemsize
        return min(UPDATES_IN_INDEX_CHUNK, max(1, CHUNK_MIB * 2**20 // max(1, each)))


class _Rows(Dataset[Batch]):
    """Maps the positions [R, b] of a batch to its inputs and labels, read from the banks (possibly files)."""

    def __init__(self, members: Sequence[MixtureData], device: Device) -> None:
        self.members, self.device = members, device
        self.labels = [_labels(member, device) for member in members]

    def __getitem__(self, positions: Any) -> Batch:
        mine = positions[:, self.device.rank :: self.device.world]
        x = torch.stack([self._inputs(member, p) for member, p in zip(self.members, mine, strict=True)])
        y = torch.stack([labels[torch.from_numpy(p)] for labels, p in zip(self.labels, mine, strict=True)])
        return x, y, positions.shape[1]

    def _inputs(self, member: MixtureData, positions: Positions) -> Tensor:
        out = torch.empty(len(positions), *member.parts[0].bank.input_shape, dtype=self.device.dtype)
        for part, here, rows in member.rows_by_part(positions):
            if len(here):
                out[torch.from_numpy(here)] = part.bank.scale(part.bank.x[rows], self.device.dtype)
        return out


class StreamingFeed(Feed):
    """Batches from a DataLoader, for data that do not fit the device."""

    def _batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        on_gpu = self.device.torch_device.type == "cuda"
        yield from DataLoader(
            _Rows(self.members, self.device),
            batch_size=None,
            sampler=list(batch_positions(self.members, self.length, epoch))[skip:],
            num_workers=4 if on_gpu else 0,
            pin_memory=on_gpu,
            generator=torch.Generator(),  # its workers' seeds are drawn from it instead of the global generator
        )


@dataclass(frozen=True)
class Epochs:
    """The loader that Lightning gets: each `iter()` is the next epoch, in chunks."""

    next_epoch: Callable[[], Iterator[list[Batch] | IndexChunk]]

    def __iter__(self) -> Iterator[list[Batch] | IndexChunk]:
        return self.next_epoch()


def whole_epoch(feed: Feed, batch_size: int) -> Feed:
    """One epoch of the same data in batches of another size, whole on every rank and without augmentation."""
    again = copy.copy(feed)
    again.device = dataclasses.replace(feed.device, rank=0, world=1)
    n_draws = feed.length.n_draws
    if isinstance(again, ResidentFeed) and (n_draws > batch_size or feed.device.world > 1):
        again._whole = None
    again.length, again.epoch, again.skip = Length.of_epochs(n_draws, min(n_draws, batch_size), 1), 0, 0
    again.augment = ()
    return again


def make_feed(
    members: Sequence[MixtureData],
    length: Length,
    device: Device,
    resident_mib: int,
    n_done: int = 0,
    augment: Sequence[str] = (),
) -> Feed:
    """A resident feed if the group's training data fit into `resident_mib`, else a streaming one."""
    fits = Table.mebibytes([member.parts for member in members], device.dtype) <= resident_mib
    return (ResidentFeed if fits else StreamingFeed)(members, length, device, n_done, augment)
