"""Augmentation: flips or shifts every image of a training batch at random, independently for each draw.

The randomness of a draw is addressed by seed, data, epoch and position in the epoch alone: it depends neither on the
other models of a group, nor on where an epoch was interrupted, nor on the device, which only moves pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from src.data.batches import MixtureData
from src.seeds import generator

Chances = NDArray[np.int64]
"""For each draw [..., 3]: whether it is flipped, and the row and column of the padded image at which it is cropped."""


def margins(shape: Sequence[int]) -> tuple[int, int]:
    """Pixels by which an image [C, H, W] may move in both directions: an eighth of it (4 of 32), at least 1."""
    return max(1, shape[1] // 8), max(1, shape[2] // 8)


def chances(data: MixtureData, epoch: int) -> Chances:
    """The randomness of all draws of an epoch (counted from 0): [n_draws, 3]."""
    high, wide = margins(data.parts[0].bank.input_shape)
    rng = generator(data.seed, "noise", data.digest, "augmentation", epoch)
    return rng.integers(0, [2, 2 * high + 1, 2 * wide + 1], (data.n_draws, 3))


def augmented(x: Tensor, chosen: Tensor, names: Sequence[str]) -> Tensor:
    """Augment images [..., C, H, W] by the randomness `chosen` [..., 3] of each, from `chances`.

    ``flip``: mirrors half of the images left to right. ``crop``: crops each at random from the image padded with zeros,
    `margins` wide (after scaling: black, or the mean if images are standardised).
    """
    flat = x.flatten(0, -4)
    flipped, row, column = chosen.to(x.device).reshape(-1, 3).unbind(1)
    if "flip" in names:
        flat = torch.where(flipped.bool().view(-1, 1, 1, 1), flat.flip(-1), flat)
    if "crop" in names:
        (n, _, height, width), (high, wide) = flat.shape, margins(flat.shape[1:])
        padded = functional.pad(flat, (wide, wide, high, high))
        rows = row.view(n, 1, 1) + torch.arange(height, device=x.device).view(-1, 1)
        columns = column.view(n, 1, 1) + torch.arange(width, device=x.device)
        each = torch.arange(n, device=x.device).view(n, 1, 1)
        flat = padded[each, :, rows, columns].movedim(-1, 1)
    return flat.reshape(x.shape)
