"""How Dataset 2 may differ from Dataset 1 beyond its class balance: shifts of the inputs, and one of the labels.

An input shift maps raw rows of a bank to raw rows of the same shape and type. Every draw is addressed by (seed, data set)
and, where each sample has its own, by the sample's id: a sample is shifted alike in whatever subset it appears.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.data.config import ShiftConfig
from src.data.sources.source import Source, chunks
from src.errors import ConfigError
from src.seeds import generator

InputShift = Callable[[Tensor, NDArray[np.int64], float, int, int], Tensor]
"""(raw rows x [n, ...], ids [n], amount, seed, part counted from 0) -> shifted rows [n, ...] of the same type."""


def rotate(x: Tensor, ids: NDArray[np.int64], amount: float, seed: int, part: int) -> Tensor:
    """Images turned by `amount` degrees anticlockwise in Dataset 2, twice that in Dataset 3, ...: bilinear, black
    corners."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import rotate as turn

    del ids, seed
    return turn(x, amount * part, InterpolationMode.BILINEAR)  # type: ignore[no-any-return]


def permute(x: Tensor, ids: NDArray[np.int64], amount: float, seed: int, part: int) -> Tensor:
    """A share `amount` of the pixels (or features), at least 2, exchanged by one permutation for all samples and
    channels: permuted MNIST (Goodfellow et al. 2013) where the share is 1."""
    del ids
    flat = x.reshape(*x.shape[:2], -1) if x.ndim > 2 else x
    source = torch.from_numpy(pixel_permutation(flat.shape[-1], amount, seed, part))
    return flat[..., source].reshape(x.shape)


def pixel_permutation(n_pixels: int, amount: float, seed: int, part: int) -> NDArray[np.int64]:
    """Which pixel each place takes its value from, int64 [n_pixels]; of a larger share, more places are affected."""
    affected = generator(seed, "data", "permute", part).permutation(n_pixels)[: _share(amount, n_pixels)]
    taken = np.arange(n_pixels)
    taken[affected] = np.roll(affected, 1)  # affected is in random order, so this is one random cycle: all move
    return taken


def noise(x: Tensor, ids: NDArray[np.int64], amount: float, seed: int, part: int) -> Tensor:
    """Gaussian noise of standard deviation `amount`, on the 0-1 scale for byte pixels (then rounded and clipped to
    0..255), in the inputs' own units for floating point (not clipped). Every sample has noise of its own."""
    out = torch.empty_like(x)
    for row, name in enumerate(ids.tolist()):
        drawn = generator(seed, "data", "noise", part, name).standard_normal(tuple(x.shape[1:]), dtype=np.float32)
        if x.dtype == torch.uint8:
            pixels = x[row].numpy() + np.float32(255 * amount) * drawn
            out[row] = torch.from_numpy(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
        else:
            out[row] = x[row] + amount * torch.from_numpy(drawn)
    return out


INPUT_SHIFTS: dict[str, InputShift] = {"rotate": rotate, "permute": permute, "noise": noise}


def shift_inputs(kind: str, x: Tensor, rows: NDArray[np.int64], amount: float, seed: int, part: int) -> Tensor:
    """The rows `rows` of the bank `x`, shifted: [len(rows), ...]; nothing else of the bank is read."""
    out = torch.empty((len(rows), *x.shape[1:]), dtype=x.dtype)
    for piece in chunks(len(rows)):
        out[piece] = INPUT_SHIFTS[kind](x[torch.from_numpy(rows[piece])], rows[piece], amount, seed, part)
    return out


def relabel(classes: Sequence[int], amount: float, seed: int, part: int) -> dict[int, int]:
    """The new label of each class: a share `amount` of the classes, at least 2, exchanged in one random cycle."""
    chosen = generator(seed, "data", "relabel", part).permutation(np.asarray(classes))[: _share(amount, len(classes))]
    return {int(c): int(c) for c in classes} | dict(zip(chosen.tolist(), np.roll(chosen, -1).tolist(), strict=True))


def _share(amount: float, n: int) -> int:
    """How many of n: the nearest number, at least 2, since one cannot be exchanged with itself."""
    return min(n, max(2, int(amount * n + 0.5))) if amount > 0 else 0


def check_shift(shift: ShiftConfig, source: Source) -> None:
    """Refuses a shift that the source's samples cannot undergo."""
    if shift.kind == "rotate" and shift.amount and len(source.bank.input_shape) != 3:
        shape = list(source.bank.input_shape)
        raise ConfigError("split.shift.kind", "rotate", f"needs images, the samples are {shape}; take permute or noise")
    if shift.kind == "relabel" and shift.amount and source.is_regression:
        raise ConfigError("split.shift.kind", "relabel", "needs classes, this is regression; take permute or noise")
    if shift.kind == "source" and source.second is not None:
        raise ConfigError("split.shift.kind", "source", "contradicts data.path2, which is Dataset 2's source; drop one")
