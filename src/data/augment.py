"""Augmentation: every picture of a training batch mirrored or moved at random, anew each time it is drawn.

What happens to a draw is addressed by seed, data, epoch and its place in the epoch, by nothing else: it depends neither on
the models beside it nor on where an epoch was interrupted, nor on the device, which only moves pixels.
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
"""For each draw [..., 3]: whether it is mirrored, and the row and column of the frame at which it is cut out."""


def margins(shape: Sequence[int]) -> tuple[int, int]:
    """Pixels that a picture [C, H, W] may move up, down and to the sides: an eighth of it (4 of 32), one at least."""
    return max(1, shape[1] // 8), max(1, shape[2] // 8)


def chances(data: MixtureData, epoch: int) -> Chances:
    """What happens to the draws of an epoch (counted from 0), if everything is asked for: [n_draws, 3]."""
    high, wide = margins(data.parts[0].bank.input_shape)
    rng = generator(data.seed, "noise", data.digest, "augmentation", epoch)
    return rng.integers(0, [2, 2 * high + 1, 2 * wide + 1], (data.n_draws, 3))


def augmented(x: Tensor, chosen: Chances, names: Sequence[str]) -> Tensor:
    """Pictures [..., C, H, W] after what was `chosen` [..., 3] for each.

    ``flip``: mirrored left to right, half of them. ``crop``: moved, as if cut at random out of a frame of zeros around it
    (after scaling: black, or the mean where pictures are standardised), `margins` wide.
    """
    flat = x.flatten(0, -4)
    mirrored, row, column = torch.from_numpy(chosen).to(x.device).reshape(-1, 3).unbind(1)
    if "flip" in names:
        flat = torch.where(mirrored.bool().view(-1, 1, 1, 1), flat.flip(-1), flat)
    if "crop" in names:
        (n, _, height, width), (high, wide) = flat.shape, margins(flat.shape[1:])
        framed = functional.pad(flat, (wide, wide, high, high))
        rows = row.view(n, 1, 1) + torch.arange(height, device=x.device).view(-1, 1)
        columns = column.view(n, 1, 1) + torch.arange(width, device=x.device)
        each = torch.arange(n, device=x.device).view(n, 1, 1)
        flat = framed[each, :, rows, columns].movedim(-1, 1)
    return flat.reshape(x.shape)
