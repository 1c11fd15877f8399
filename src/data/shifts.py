"""How Dataset 2 may differ from Dataset 1 beyond its class balance: one function per kind, and the table of kinds.

An input shift maps raw rows of a bank to raw rows of the same shape and type. Every draw is addressed by (seed, data
set) and, where each sample has its own, by the sample's id: a sample has the same shift in every subset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from src.errors import ConfigError
from src.typed import bounds

if TYPE_CHECKING:  # configurations are parsed by commands that never load torch
    from torch import Tensor

    from src.data.source import Source
    from src.data.stream import Rows


def rotate(x: Tensor, ids: Rows, amount: float, seed: int, part: int) -> Tensor:
    """Images rotated by `amount` degrees anticlockwise in Dataset 2, twice that in Dataset 3, ...; bilinear, black
    corners."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    del ids, seed
    return functional.rotate(x, amount * part, InterpolationMode.BILINEAR)  # type: ignore[no-any-return]


def rotate_random(x: Tensor, ids: Rows, amount: float, seed: int, part: int) -> Tensor:
    """Images rotated by an angle that the seed draws for each data set, uniform between 0 and `amount` degrees."""
    from src.seeds import generator

    return rotate(x, ids, float(generator(seed, "data", "angle", part).uniform(0, amount)), seed, 1)


def permute(x: Tensor, ids: Rows, amount: float, seed: int, part: int) -> Tensor:
    """A share `amount` of the pixels (or features), at least 2, exchanged by one permutation for all samples and
    channels: permuted MNIST (Goodfellow et al. 2013) if the share is 1."""
    import torch

    del ids
    flat = x.reshape(*x.shape[:2], -1) if x.ndim > 2 else x
    return flat[..., torch.from_numpy(pixel_permutation(flat.shape[-1], amount, seed, part))].reshape(x.shape)


def pixel_permutation(n_pixels: int, amount: float, seed: int, part: int) -> Rows:
    """The pixel whose value each pixel takes, int64 [n_pixels]. A larger share affects the same pixels and more."""
    import numpy as np

    from src.seeds import generator

    affected = generator(seed, "data", "permute", part).permutation(n_pixels)[: _share(amount, n_pixels)]
    taken = np.arange(n_pixels)
    taken[affected] = np.roll(affected, 1)  # affected is in random order, so this is one random cycle: all move
    return taken


def noise(x: Tensor, ids: Rows, amount: float, seed: int, part: int) -> Tensor:
    """Gaussian noise of standard deviation `amount`: on the 0-1 scale for byte pixels (then rounded and clipped to
    0..255), in the inputs' own units for floating point (not clipped). Every sample has its own noise."""
    import numpy as np
    import torch

    from src.seeds import generator

    out = torch.empty_like(x)
    for row, name in enumerate(ids.tolist()):
        drawn = generator(seed, "data", "noise", part, name).standard_normal(tuple(x.shape[1:]), dtype=np.float32)
        if x.dtype == torch.uint8:
            pixels = x[row].numpy() + np.float32(255 * amount) * drawn
            out[row] = torch.from_numpy(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
        else:
            out[row] = x[row] + amount * torch.from_numpy(drawn)
    return out


def relabel(classes: Sequence[int], amount: float, seed: int, part: int) -> dict[int, int]:
    """The new label of each class: a share `amount` of the classes, at least 2, exchanged in one random cycle."""
    import numpy as np

    from src.seeds import generator

    chosen = generator(seed, "data", "relabel", part).permutation(np.asarray(classes))[: _share(amount, len(classes))]
    return {int(c): int(c) for c in classes} | dict(zip(chosen.tolist(), np.roll(chosen, -1).tolist(), strict=True))


def _share(amount: float, n: int) -> int:
    """The nearest number to `amount` of n, but at least 2: one cannot be exchanged with itself."""
    return min(n, max(2, int(amount * n + 0.5))) if amount > 0 else 0


@dataclass(frozen=True, kw_only=True)
class ShiftKind:
    """One kind of shift: what its amount means, and what it changes."""

    unit: str | None = None
    """What `amount` counts; None: the kind takes no amount."""
    most: float | None = None
    """The largest amount."""
    inputs: Callable[[Tensor, Rows, float, int, int], Tensor] | None = None
    """(raw rows x [n, ...], ids [n], amount, seed, part counted from 0) -> shifted rows [n, ...] of the same type."""
    labels: Callable[[Sequence[int], float, int, int], dict[int, int]] | None = None
    """(classes, amount, seed, part counted from 0) -> the new label of each class."""
    is_seeded: bool = True
    """Whether the seed matters."""
    needs_images: bool = False
    needs_source: bool = False
    """Whether `split.shift.source` says where Dataset 2 comes from."""


SHIFTS: dict[str, ShiftKind] = {
    "none": ShiftKind(),
    "rotate": ShiftKind(unit="degrees", most=360, inputs=rotate, is_seeded=False, needs_images=True),
    "rotate_random": ShiftKind(unit="degrees", most=360, inputs=rotate_random, needs_images=True),
    "permute": ShiftKind(unit="share of pixels", most=1, inputs=permute),
    "noise": ShiftKind(unit="standard deviation", inputs=noise),
    "relabel": ShiftKind(unit="share of classes", most=1, labels=relabel),
    "source": ShiftKind(needs_source=True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ShiftConfig:
    """How Dataset 2 (and its test set) differs from Dataset 1 beyond its class balance."""

    kind: Literal["none", "rotate", "rotate_random", "permute", "noise", "relabel", "source"]
    """A key of SHIFTS."""
    amount: float = field(metadata=bounds(ge=0))
    """Degrees (rotate; rotate_random: the largest), share of pixels (permute), standard deviation on the 0-1 pixel
    scale (noise), share of classes whose labels are exchanged (relabel)."""
    source: str | None
    """Another source with the same classes, for kind ``source``: a name (digits, mnist, fashion_mnist, cifar10), a .npz
    file or a folder of class folders."""

    @property
    def rule(self) -> ShiftKind:
        """What the kind means."""
        return SHIFTS[self.kind]

    @property
    def is_active(self) -> bool:
        """Whether Dataset 2's inputs or labels change."""
        return self.rule.unit is not None and self.amount > 0

    @property
    def label(self) -> str:
        """The shift as the axis of a grid shows it."""
        if self.kind == "none":
            return "none"
        return f"{self.kind}:{self.source}" if self.rule.needs_source else f"{self.kind}:{self.amount:g}"

    def check(self) -> None:
        """Raise ConfigError if the settings contradict each other."""
        rule = self.rule
        if rule.needs_source and self.source is None:
            problem = f"split.shift.kind={self.kind} needs a source's name or path"
            raise ConfigError("split.shift.source", None, problem)
        if not rule.needs_source and self.source is not None:
            raise ConfigError("split.shift.source", self.source, "has no effect; set split.shift.kind=source")
        if rule.unit is None and self.amount != 0:
            most = {kind: other.most or math.inf for kind, other in SHIFTS.items() if other.unit is not None}
            fix = f"set split.shift.kind to {' or '.join(kind for kind in most if self.amount <= most[kind])}"
            raise ConfigError("split.shift.amount", self.amount, f"has no effect with kind={self.kind}; {fix}")
        if rule.most is not None and self.amount > rule.most:
            problem = f"is in {rule.unit} with kind={self.kind}; take at most {rule.most:g}"
            raise ConfigError("split.shift.amount", self.amount, problem)

    def check_source(self, source: Source) -> None:
        """Raise ConfigError if the samples of `source` cannot undergo the shift."""
        key = "split.shift.kind"
        if self.is_active and self.rule.needs_images and len(source.bank.input_shape) != 3:
            problem = f"needs images, the samples are {list(source.bank.input_shape)}; take permute or noise"
            raise ConfigError(key, self.kind, problem)
        if self.is_active and self.rule.labels is not None and source.is_regression:
            raise ConfigError(key, self.kind, "needs classes, this is regression; take permute or noise")
        if self.rule.needs_source and source.later:
            raise ConfigError(key, self.kind, "contradicts data.path2 or data.paths, which are the sources; drop one")

    def shifted(self, x: Tensor, rows: Rows, seed: int, part: int) -> Tensor:
        """The rows `rows` of the inputs `x`, shifted: [len(rows), ...]; no other row is read."""
        import torch

        from src.data.source import chunks

        assert self.rule.inputs is not None
        out = torch.empty((len(rows), *x.shape[1:]), dtype=x.dtype)
        for piece in chunks(len(rows)):
            ids = rows[piece]
            out[piece] = self.rule.inputs(x[torch.from_numpy(ids)], ids, self.amount, seed, part)
        return out
