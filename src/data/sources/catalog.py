"""The sources by name: digits, MNIST and its like, pictures, arrays, and a Gaussian generator."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.data.config import ArraysData, DataConfig, DigitsData, GaussianData, ImageFolderData, TorchvisionData
from src.data.sources.gaussian import latents, parameters_digest, true_weights
from src.data.sources.image_folder import find, load_image_folder
from src.data.sources.source import Source, make_source, match, resize
from src.data.sources.torchvision_files import DIGIT_NAMES, load_torchvision
from src.data.stream import Bank
from src.errors import ConfigError

MULTIRUN_CACHE = Path("multirun/.cache")


def load_source(data: DataConfig, cache: Path = MULTIRUN_CACHE) -> Source:
    """The source that `data` names, whole. `cache`: where decoded pictures are kept if the data root is read-only.

    Raises ConfigError for what is missing, damaged, incomplete or does not agree, with the way to mend it.
    """
    if isinstance(data, DigitsData):
        return _digits()
    if isinstance(data, TorchvisionData):
        return load_torchvision(data)
    if isinstance(data, GaussianData):
        return _gaussian(data)
    first = _from_path(data, data.path, "data.path", cache)
    if data.path2 is None:
        return first
    second = _from_path(data, data.path2, "data.path2", cache)
    return dataclasses.replace(first, second=match(second, first, "data.path2", data.path2))


def load_shift_source(name: str, data: DataConfig, first: Source, cache: Path = MULTIRUN_CACHE) -> Source:
    """The source that `split.shift.source` names, in the shape, scale and class numbers of `first`.

    `name`: digits, mnist, fashion_mnist or cifar10 (in the same data root), a .npz file (with the keys of data=arrays,
    or x and y), or a folder of class folders.
    """
    key = "split.shift.source"
    loaded: Source
    if name == "digits":
        loaded = _digits()
    elif name in ("mnist", "fashion_mnist", "cifar10"):
        download = data.download if isinstance(data, TorchvisionData) else True
        loaded = load_torchvision(TorchvisionData(name=name, root=data.root, download=download))  # type: ignore[arg-type]
    elif name.endswith(".npz"):
        x_key, y_key = (data.x_key, data.y_key) if isinstance(data, ArraysData) else ("x", "y")
        loaded = _arrays(find(name, _root(data), key), key, name, x_key, y_key, None)
    else:
        shape = first.bank.input_shape
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ConfigError(key, name, "is a folder of pictures, but Dataset 1 has no pictures; name another source")
        size, channels = max(shape[1:]), shape[0]
        caches = [_root(data) / ".cache", cache]
        loaded = load_image_folder(name, key=key, image_size=size, channels=channels, root=_root(data), caches=caches)
    return match(loaded, first, key, name)


def _root(data: DataConfig) -> Path:
    return Path(data.root).expanduser()


def _from_path(data: ImageFolderData | ArraysData, path: str, key: str, cache: Path) -> Source:
    if isinstance(data, ImageFolderData):
        return load_image_folder(
            path,
            key=key,
            image_size=data.image_size,
            channels=data.channels,
            root=_root(data),
            caches=[_root(data) / ".cache", cache],
        )
    return _arrays(find(path, _root(data), key), key, path, data.x_key, data.y_key, data.image_size)


def _digits() -> Source:
    """1,797 images [1, 8, 8] of 0..1, from the file inside scikit-learn; importing it would take a second."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(gzip.decompress(file.read_bytes()).decode().splitlines(), delimiter=",", dtype=np.float32)
    x = torch.from_numpy(table[:, :-1].reshape(-1, 1, 8, 8) / 16)
    return make_source(x, torch.from_numpy(table[:, -1].astype(np.int64)), DIGIT_NAMES)


def _gaussian(data: GaussianData) -> Source:
    """x ~ N(0, I_d) in float64; y = x w* + noise, or the largest of `n_classes` such outputs.

    What a regression's data sets make of it, each under its own distribution, the split asks of `src.data.sources.catalog.gaussian`.
    """
    drawn = latents(data, 0)
    outputs = drawn.z @ true_weights(data) + data.noise * drawn.noise
    bank, digest = Bank(torch.from_numpy(drawn.z)), parameters_digest(data)
    if data.target == "regression":
        return Source(bank, torch.from_numpy(outputs), None, digest, generated=data)
    names = tuple(str(label) for label in range(data.n_classes))
    return Source(bank, torch.from_numpy(outputs.argmax(1)), names, digest)


def _arrays(file: Path, key: str, path: str, x_key: str, y_key: str, image_size: int | None) -> Source:
    """Inputs and labels of a .npz file; labels of any whole numbers or texts are classes, floating point is regression."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            for name_key, name in (("x_key", x_key), ("y_key", y_key)):
                if name not in archive.files:
                    fix = f"set data.{name_key} to one of {', '.join(archive.files)}"
                    raise ConfigError(key, path, f"{file} has no array {name}; {fix}")
            x, y = archive[x_key], archive[y_key]
    except ConfigError:
        raise
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        fix = "write it with numpy.savez(file, x=..., y=...), of plain arrays"
        raise ConfigError(key, path, f"cannot read {file} ({error}); {fix}") from error
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        shapes = f"{x_key} is {list(x.shape)} and {y_key} {list(y.shape)}"
        raise ConfigError(key, path, f"{shapes}; they need as many rows, one label for each input")
    inputs = _inputs(x, key, path)
    if image_size is not None:
        if inputs.ndim != 4:
            raise ConfigError(
                "data.image_size", image_size, f"has no effect on {path}: {x_key} has no images; set null"
            )
        inputs = resize(inputs, image_size, image_size)
    if y.dtype.kind == "f":
        if not np.isfinite(y).all():
            raise ConfigError(key, path, f"{y_key} has values that are not finite; remove those rows")
        return make_source(inputs, torch.from_numpy(y.reshape(len(y), -1)), None)
    if y.size != len(y) or y.dtype.kind not in "iubU":
        raise ConfigError(key, path, f"{y_key} is {y.dtype} {list(y.shape)}; labels are one whole number or text a row")
    classes, labels = np.unique(y.reshape(-1), return_inverse=True)
    if len(classes) < 2:
        raise ConfigError(key, path, f"{y_key} has one class only; training needs 2 or more")
    return make_source(inputs, torch.from_numpy(labels.astype(np.int64)), tuple(str(name) for name in classes))


def _inputs(x: NDArray[np.generic], key: str, path: str) -> Tensor:
    """Images [n, h, w], [n, c, h, w] or [n, h, w, c] as [n, c, h, w]; features [n, d] as they are."""
    if x.dtype.kind not in "fiu":
        raise ConfigError(key, path, f"inputs are {x.dtype}; store numbers")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3, 4):
        if x.shape[3] not in (1, 3, 4):
            raise ConfigError(
                key, path, f"images are {list(x.shape)}; the second or last size must be 1, 3 or 4 channels"
            )
        x = x.transpose(0, 3, 1, 2)
    elif x.ndim not in (2, 4):
        raise ConfigError(
            key, path, f"inputs are {list(x.shape)}; store [n, h, w], [n, c, h, w], [n, h, w, c] or [n, d]"
        )
    if x.dtype.kind == "f":
        if not np.isfinite(x).all():
            raise ConfigError(key, path, "inputs have values that are not finite; remove those rows")
        x = x.astype(np.float32) if x.dtype not in (np.float32, np.float64) else x
    elif x.ndim == 4 and x.dtype != np.uint8:
        if x.min() < 0 or x.max() > 255:
            raise ConfigError(key, path, f"whole-number pixels go from {x.min()} to {x.max()}; store them as 0..255")
        x = x.astype(np.uint8)
    elif x.ndim == 2:
        x = x.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(x))
