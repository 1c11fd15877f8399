"""Augmented images equal flipping and cropping one by one, differ between draws, and depend on nothing else.

Neither on where an epoch begins, nor on the batches it is cut into, nor on the ranks that share them; metrics over a
stage's data read the images without augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from src.cells.resolve import resolve
from src.config import compose
from src.data.augment import augmented, chances, margins
from src.data.batches import MixtureData, mixture_data
from src.errors import ConfigError
from src.regimes.stage import Mixture
from src.stopping.length import Length
from src.training.devices import Device
from src.training.feed import make_feed, whole_epoch
from tests.data.samples import build_stream, source_of, split_of

LENGTH = Length.of_epochs(24, 5, 2)


def data(seed: int = 0) -> MixtureData:
    stream = build_stream(split_of(sizes=(24, 8)), source_of([40, 40], side=9), seed)
    return mixture_data(stream, Mixture(parts=(0,)))


def epochs(
    mixtures: Sequence[MixtureData], *, rank: int = 0, world: int = 1, n_done: int = 0, mib: int = 9
) -> list[torch.Tensor]:
    """The inputs [R, b, 1, 9, 9] of all batches that are left of two epochs."""
    feed = make_feed(
        mixtures, LENGTH, Device(torch.device("cpu"), torch.float32, rank, world), mib, n_done, ("flip", "crop")
    )
    return [x for _ in range(2 - n_done // LENGTH.updates_per_epoch) for x, _, _ in feed]


@pytest.mark.parametrize("names", [("flip",), ("crop",), ("flip", "crop")])
@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 16, 8)])
def test_every_image_is_flipped_and_cropped_as_drawn(names: tuple[str, ...], shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((2, 30, *shape), dtype=np.float32))
    high, wide = margins(shape)
    chosen = rng.integers(0, [2, 2 * high + 1, 2 * wide + 1], (2, 30, 3))
    out = augmented(x, torch.from_numpy(chosen), names)
    for r in range(2):
        for k in range(30):
            one, (mirrored, row, column) = x[r, k], chosen[r, k].tolist()
            if "flip" in names and mirrored:
                one = one.flip(-1)
            if "crop" in names:
                one = pad(one, (wide, wide, high, high))[:, row : row + shape[1], column : column + shape[2]]
            assert torch.equal(out[r, k], one)


def test_draws_differ_and_have_a_name_of_their_own() -> None:
    one = data()
    first = chances(one, 0)
    assert first.shape == (24, 3)
    assert np.array_equal(first, chances(data(), 0)), "the same seed, data and epoch"
    others = [chances(one, 1), chances(data(seed=1), 0)]
    assert all(not np.array_equal(first, other) for other in others)
    many = np.concatenate([chances(one, epoch) for epoch in range(400)])
    high, wide = margins((1, 9, 9))
    for column, n in enumerate((2, 2 * high + 1, 2 * wide + 1)):
        counts = np.bincount(many[:, column], minlength=n)
        assert len(counts) == n
        assert abs(counts / len(many) - 1 / n).max() < 0.03, "every outcome is as likely"


def test_it_depends_neither_on_company_nor_interruption_nor_ranks_nor_the_feed() -> None:
    mixtures = [data(0), data(1)]
    whole = epochs(mixtures)
    assert not torch.equal(torch.cat(whole[:5], 1).sum((0, 1)), torch.cat(whole[5:], 1).sum((0, 1)))
    for r, mixture in enumerate(mixtures):
        assert all(torch.equal(a[r], b[0]) for a, b in zip(whole, epochs([mixture]), strict=True))
    for n_done in (1, 4, 7):
        assert all(torch.equal(a, b) for a, b in zip(whole[n_done:], epochs(mixtures, n_done=n_done), strict=True))
    parts = [epochs(mixtures, rank=rank, world=2) for rank in range(2)]
    for x, even, odd in zip(whole, *parts, strict=True):
        assert torch.equal(x[:, ::2], even)
        assert torch.equal(x[:, 1::2], odd)
    assert all(torch.equal(a, b) for a, b in zip(whole, epochs(mixtures, mib=0), strict=True))


def test_metrics_read_images_without_augmentation() -> None:
    device = Device(torch.device("cpu"), torch.float32)
    feeds = [make_feed([data()], LENGTH, device, 9, 0, augment) for augment in ((), ("flip", "crop"))]
    plain, other = ([x for x, _, _ in whole_epoch(feed, 7)] for feed in feeds)
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


def test_samples_without_images_are_refused_and_addresses_stay() -> None:
    gaussian = compose(["data=gaussian", "loss=mse", "arch=linear", "augment=[flip]"])
    with pytest.raises(ConfigError, match=r"augment=.*shape \[\d+\]; set augment=\[\]"):
        resolve(gaussian)
    plain, one, two, turned = (compose([f"augment={a}"]) for a in ("[]", "[flip]", "[flip,crop]", "[crop,flip]"))
    assert "augment" not in plain.recipe(), "cells from before there was this key keep their address"
    assert len({resolve(config).folder for config in (plain, one, two)}) == 3
    assert resolve(two).folder == resolve(turned).folder
