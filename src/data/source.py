"""A source: where samples come from, whole, before any split or shift."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from src.data.stream import Bank, Generator
from src.errors import ConfigError
from src.io import bytes_digest

CHUNK = 4096
"""Rows converted at a time, so that peak memory does not grow with the source."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image: ITU-R 601-2, as in Pillow."""

ClassNames = tuple[str, ...] | None
"""K names of classes; None for a regression."""


@dataclass(frozen=True, eq=False)
class Source:
    """All samples of a source; the row in the bank is the sample's id."""

    bank: Bank
    y: Tensor
    """int64 [N] classes 0..K-1, or float [N, k] targets."""
    class_names: ClassNames
    digest: str
    """Hash of inputs, labels, class names and official test set."""
    official_test: Tensor | None = None
    """bool [N]: whether a sample is in the source's own test set."""
    later: tuple[Source, ...] = ()
    """The own sources of Dataset 2, 3, ... (`data.path2`, `data.paths`), in this one's shape, scale and classes."""
    are_numbered: bool = False
    """Whether class numbers are labels that the data set itself defines: `split.classes` may use them like names."""
    generator: Generator | None = None
    """Gives each data set samples of its own distribution in place of these."""

    def __len__(self) -> int:
        return len(self.y)

    @property
    def is_regression(self) -> bool:
        return self.class_names is None

    @property
    def n_outputs(self) -> int:
        """Classes, or target columns for regression."""
        return self.y.shape[1] if self.class_names is None else len(self.class_names)


def class_number(source: Source, given: int | str) -> int | None:
    """The number of the class of this name or label; None if there is none."""
    names = source.class_names or ()
    if str(given) in names:
        return names.index(str(given))
    is_label = source.are_numbered and isinstance(given, int) and 0 <= given < len(names)
    return given if is_label and isinstance(given, int) else None


def class_label(source: Source, number: int) -> int | str:
    """How `split.classes` names a class: its label where it is a whole number, else its name."""
    assert source.class_names is not None
    name = source.class_names[number]
    if source.are_numbered:
        return number
    return int(name) if re.fullmatch(r"0|-?[1-9][0-9]*", name) else name


def make_source(x: Tensor, y: Tensor, class_names: ClassNames, official_test: Tensor | None = None) -> Source:
    """Make a source from its tensors.

    Images [N, C, H, W] are standardised by what is not in the official test set; features [N, d] stay as they are.
    """
    mean, std = moments(x, official_test) if x.ndim == 4 else (None, None)
    return Source(Bank(x, mean, std), y, class_names, content_digest(x, y, class_names, official_test), official_test)


def chunks(n_rows: int) -> Iterator[slice]:
    """Slices of at most CHUNK rows that cover 0..n_rows."""
    return (slice(start, min(start + CHUNK, n_rows)) for start in range(0, n_rows, CHUNK))


def content_digest(x: Tensor, y: Tensor, class_names: ClassNames, official_test: Tensor | None = None) -> str:
    """blake2b of types, shapes and contents; a memory-mapped file is read in chunks."""
    h = hashlib.blake2b(digest_size=16)
    h.update(repr((str(x.dtype), tuple(x.shape), str(y.dtype), tuple(y.shape), class_names)).encode())
    for piece in chunks(len(x)):
        h.update(x[piece].numpy().tobytes())
    h.update(y.numpy().tobytes())
    if official_test is not None:
        h.update(official_test.numpy().tobytes())
    return h.hexdigest()


def moments(x: Tensor, left_out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, float64 [C], of pixels on the 0-1 scale, without the rows in
    `left_out`.

    A constant channel has deviation 1, so that it can be a divisor.
    """
    total = np.zeros(x.shape[1])
    squares = np.zeros(x.shape[1])
    n_values = 0
    for piece in chunks(len(x)):
        rows = x[piece] if left_out is None else x[piece][~left_out[piece]]
        values = rows.numpy()
        if values.dtype == np.uint8:  # whole numbers are summed without rounding
            total += values.sum(axis=(0, 2, 3), dtype=np.int64) / 255
            squares += np.square(values, dtype=np.int32).sum(axis=(0, 2, 3), dtype=np.int64) / 255**2
        else:
            total += values.sum(axis=(0, 2, 3), dtype=np.float64)
            squares += np.square(values, dtype=np.float64).sum(axis=(0, 2, 3))
        n_values += values.size // x.shape[1]
    mean = total / n_values
    variance = np.maximum(squares / n_values - mean**2, 0)
    std = np.where(variance > 1e-12, np.sqrt(variance), 1.0)
    return torch.from_numpy(mean), torch.from_numpy(std)


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Resize images [N, C, H, W], bilinear with anti-aliasing; their type stays."""
    if x.shape[2:] == (height, width):
        return x
    out = torch.empty((*x.shape[:2], height, width), dtype=x.dtype)
    for piece in chunks(len(x)):
        values = x[piece].to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        resized = interpolate(values, (height, width), mode="bilinear", antialias=True)
        out[piece] = resized.round().clamp(0, 255).to(torch.uint8) if x.dtype == torch.uint8 else resized
    return out


def union_of_classes(first: Source, second: Source, key: str, value: str) -> Source:
    """`first` with the class names of both: its own keep their numbers, those that only `second` has follow.

    Raises ConfigError under `key` if two names differ in nothing but case: that is one class spelled in two ways.
    """
    if first.class_names is None or second.class_names is None:
        return first
    spelled = {name.casefold(): name for name in first.class_names}
    new = [name for name in second.class_names if name not in first.class_names]
    for name in new:
        if (other := spelled.get(name.casefold())) is not None:
            raise ConfigError(key, value, f"has a class {name}, Dataset 1 a class {other}; spell them alike")
    if not new:
        return first
    names = (*first.class_names, *new)
    digest = bytes_digest(f"{first.digest} {names!r}".encode(), 16)
    return dataclasses.replace(first, class_names=names, digest=digest)


def match(second: Source, first: Source, key: str, value: str, *, same_classes: bool = True) -> Source:
    """Convert `second`, Dataset 2's source, to the shape, type, scale and class numbers of `first`.

    Images are resized, converted to grey or RGB, and standardised by the mean and deviation of `first`: one network
    sees both. Raises ConfigError under `key` if shapes cannot agree, if `second` has classes that `first` lacks, or,
    with `same_classes`, if it lacks some.
    """
    y = _match_labels(second, first, key, value, same_classes)
    x = _match_inputs(second.bank.x, first.bank.x, key, value)
    bank = Bank(x, first.bank.mean, first.bank.std)
    content = f"{second.digest}{(str(x.dtype), tuple(x.shape), first.class_names)!r}".encode()
    scales = [b"" if scale is None else scale.numpy().tobytes() for scale in (bank.mean, bank.std)]
    digest = bytes_digest(b"".join([content, *scales]), 16)
    return Source(bank, y, first.class_names, digest, second.official_test)


def _match_labels(second: Source, first: Source, key: str, value: str, same_classes: bool) -> Tensor:
    if first.class_names is None or second.class_names is None:
        if first.class_names is not second.class_names or first.y.shape[1] != second.y.shape[1]:
            raise ConfigError(key, value, "its targets are of another kind than Dataset 1's; both must be of one kind")
        return second.y.to(first.y.dtype)
    lacks = [name for name in first.class_names if same_classes and name not in second.class_names]
    extra = [name for name in second.class_names if name not in first.class_names]
    if lacks or extra:
        parts = [f"it lacks {', '.join(lacks)}"] if lacks else []
        parts += [f"Dataset 1's source lacks {', '.join(extra)}"] if extra else []
        raise ConfigError(key, value, f"class names must agree: {'; '.join(parts)}; rename or remove these classes")
    return torch.tensor([first.class_names.index(name) for name in second.class_names])[second.y]


def _match_inputs(x: Tensor, like: Tensor, key: str, value: str) -> Tensor:
    if x.ndim == 2 or like.ndim == 2:
        if x.shape[1:] != like.shape[1:]:
            shapes = f"{list(x.shape[1:])} against {list(like.shape[1:])}"
            raise ConfigError(key, value, f"its samples have another shape than Dataset 1's ({shapes}); use the same")
        return x.to(like.dtype)
    x = resize(x, like.shape[2], like.shape[3])
    if x.shape[1] != like.shape[1]:
        if {x.shape[1], like.shape[1]} != {1, 3}:
            shapes = f"{x.shape[1]} against {like.shape[1]}"
            raise ConfigError(key, value, f"cannot turn its channels into Dataset 1's ({shapes}); use grey or RGB")
        x = x.expand(-1, 3, -1, -1) if like.shape[1] == 3 else _grey(x)
    return _as_type(x, like.dtype, key, value)


def _grey(x: Tensor) -> Tensor:
    out = torch.empty((len(x), 1, *x.shape[2:]), dtype=x.dtype)
    weights = torch.tensor(LUMINANCE, dtype=torch.float64).view(1, 3, 1, 1)
    for piece in chunks(len(x)):
        grey = (x[piece] * weights).sum(1, keepdim=True)
        out[piece] = grey.round().to(torch.uint8) if x.dtype == torch.uint8 else grey.to(x.dtype)
    return out


def _as_type(x: Tensor, dtype: torch.dtype, key: str, value: str) -> Tensor:
    """The same pixels in another type: uint8 counts 0..255, floating point 0..1."""
    if x.dtype == dtype:
        return x
    if x.dtype != torch.uint8 and dtype != torch.uint8:
        return x.to(dtype)
    if dtype == torch.uint8 and (x.min() < 0 or x.max() > 1):
        problem = "its floating-point pixels are not within 0..1, Dataset 1's are bytes; rescale it"
        raise ConfigError(key, value, problem)
    out = torch.empty(x.shape, dtype=dtype)
    for piece in chunks(len(x)):
        out[piece] = x[piece].to(dtype) / 255 if x.dtype == torch.uint8 else (x[piece] * 255).round().to(torch.uint8)
    return out
