"""Settings of a data source and of the split that turns it into a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from src.typed import bounds

DEFAULT_SIZE = 400
DEFAULT_RATIO = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DigitsData:
    """scikit-learn's 1,797 real 8x8 images of digits: embedded, no download."""

    name: Literal["digits"]
    root: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchvisionData:
    """A data set that torchvision downloads into `root` on first use, or finds there."""

    name: Literal["mnist", "fashion_mnist", "cifar10"]
    root: str
    download: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolderData:
    """The user's own images, one folder per class: `path` alone to split, or `path` and `path2` as Dataset 1 and 2."""

    name: Literal["image_folder"]
    root: str
    path: str
    path2: str | None
    image_size: int = field(metadata=bounds(ge=1, le=1024))
    channels: Literal[1, 3]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraysData:
    """A .npz file with `x` [n, ...] and `y` [n]; `path2` holds Dataset 2; images are resized to `image_size` if given."""

    name: Literal["arrays"]
    root: str
    path: str
    path2: str | None
    image_size: int | None = field(metadata=bounds(ge=1, le=1024))
    x_key: str
    y_key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GaussianData:
    """x ~ N(0, I_d), a linear target plus noise of standard deviation `noise`: the linear lab.

    For regression, data sets may differ: `target_shift` is the distance between the true weights of Dataset 1 and those
    of every other, or `weights` lists them; `covariances` lists the inputs' covariance for each data set; or the inputs of
    each fill a subspace of dimension `rank`, Dataset 2's at `angle` degrees to Dataset 1's (all principal angles; twice
    that in Dataset 3).
    """

    name: Literal["gaussian"]
    root: str
    dim: int = field(metadata=bounds(ge=1))
    n_samples: int = field(metadata=bounds(ge=2))
    noise: float = field(metadata=bounds(ge=0))
    target: Literal["regression", "classification"]
    n_classes: int = field(metadata=bounds(ge=2))
    draw: Literal["pool", "fresh", "exact"]
    """``pool``: all seeds draw from the same `n_samples`. ``fresh``: every seed has `n_samples` of its own, so seeds are
    independent. ``exact``: fresh, and each data set's training inputs are made to have exactly its covariance C, and its
    noise to be orthogonal to them: the mean squared error is then the quadratic with Hessian 2 C around its true weights."""
    target_shift: float = field(metadata=bounds(ge=0))
    weights: tuple[tuple[float, ...], ...] | None
    covariances: tuple[tuple[tuple[float, ...], ...], ...] | None
    rank: int | None = field(metadata=bounds(ge=1))
    angle: float = field(metadata=bounds(ge=0, le=90))


DataConfig = DigitsData | TorchvisionData | ImageFolderData | ArraysData | GaussianData


@dataclass(frozen=True, kw_only=True, slots=True)
class ShiftConfig:
    """How Dataset 2 (and its test set) differs from Dataset 1 beyond its class balance.

    `amount`: degrees (rotate), share of pixels (permute), standard deviation on the 0-1 pixel scale (noise), share of
    classes whose labels are exchanged (relabel). `source`: another source with the same classes (kind ``source``): a
    name (digits, mnist, fashion_mnist, cifar10), a .npz file or a folder of class folders.
    """

    kind: Literal["none", "rotate", "permute", "noise", "relabel", "source"]
    amount: float = field(metadata=bounds(ge=0))
    source: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """How a source becomes a stream: see DESIGN's definitions, repeated in docs/DEFINITIONS.md."""

    parts: int = field(metadata=bounds(ge=2))
    size: int | None = field(metadata=bounds(ge=1))
    ratio: float | None = field(metadata=bounds(gt=0))
    sizes: tuple[int, ...] | None = field(metadata=bounds(ge=0))
    val: float = field(metadata=bounds(gt=0, lt=1))
    test: float | None = field(metadata=bounds(gt=0, lt=1))
    imbalance: float = field(metadata=bounds(ge=1))
    opposed: bool
    priors: tuple[tuple[float, ...], ...] | None = field(metadata=bounds(ge=0, le=1))
    classes: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = field(metadata=bounds(ge=0))
    labels: tuple[int, ...] | None = field(default=None, metadata=bounds(ge=0))
    """The label of every class of the source, in order; classes that share one are told apart by no output."""
    label_noise: float = field(metadata=bounds(ge=0, lt=1))
    shift: ShiftConfig

    def dataset_sizes(self) -> tuple[int, ...]:
        """Number of training samples of each data set of the stream: |D1|, |D2|, ..."""
        if self.sizes is not None:
            return self.sizes
        size = DEFAULT_SIZE if self.size is None else self.size
        ratio = DEFAULT_RATIO if self.ratio is None else self.ratio
        if self.parts == 2:
            n_second = round(size * ratio / (1 + ratio))
            return (size - n_second, n_second)
        whole, rest = divmod(size, self.parts)
        return tuple(whole + (part < rest) for part in range(self.parts))
