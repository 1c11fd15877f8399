"""MNIST, Fashion-MNIST and CIFAR-10 from files laid out as torchvision lays them out.

The files are read as they were downloaded, packed, checked against torchvision's MD5 sums every time: the data root may
be read-only, and nothing is unpacked. torchvision itself is imported only to download.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from src.data.config import TorchvisionData
from src.data.sources.source import Source, make_source
from src.errors import ConfigError

DIGIT_NAMES: tuple[str, ...] = tuple(str(digit) for digit in range(10))
FASHION_NAMES: tuple[str, ...] = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10_NAMES: tuple[str, ...] = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
FASHION_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_ARCHIVE = ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")


def load_torchvision(data: TorchvisionData) -> Source:
    """MNIST or Fashion-MNIST (60,000 + 10,000 of 28x28 grey) or CIFAR-10 (50,000 + 10,000 of 32x32 RGB), uint8.

    Training files come first, so ids do not depend on how the data are split; the test files are the official test set.
    Raises ConfigError, naming the file and how to get it, when one is missing, damaged or incomplete.
    """
    root = Path(data.root).expanduser()
    if data.name == "cifar10":
        train, test = _cifar10(data, root)
        names = CIFAR10_NAMES
    else:
        folder, md5 = {"mnist": ("MNIST", MNIST_MD5), "fashion_mnist": ("FashionMNIST", FASHION_MD5)}[data.name]
        train, test = _idx_files(data, root, root / folder / "raw", md5)
        names = DIGIT_NAMES if data.name == "mnist" else FASHION_NAMES
    x = torch.from_numpy(np.concatenate([train[0], test[0]]))
    y = torch.from_numpy(np.concatenate([train[1], test[1]]).astype(np.int64))
    official_test = torch.zeros(len(y), dtype=torch.bool)
    official_test[len(train[1]) :] = True
    return make_source(x, y, names, official_test)


Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def _idx_files(data: TorchvisionData, root: Path, folder: Path, md5: dict[str, str]) -> tuple[Labelled, Labelled]:
    """Training and test set: the .gz files as downloaded, or the unpacked ones where only those were kept."""

    def complete() -> bool:
        return all((folder / name).exists() or (folder / name).with_suffix("").exists() for name in md5)

    _ensure(data, root, complete, [folder / name for name in md5])
    arrays = []
    for name, wanted in md5.items():
        path = folder / name
        if path.exists():
            try:
                content = gzip.decompress(_checked_bytes(path, wanted, data))
            except (EOFError, OSError, zlib.error) as error:
                raise _damaged(path, str(error), data) from error
        else:
            path = path.with_suffix("")
            content = path.read_bytes()
        arrays.append(_parse_idx(content, path, data))
    halves = [_labelled(arrays[k][:, None], arrays[k + 1], folder, data) for k in (0, 2)]
    return halves[0], halves[1]


def _parse_idx(content: bytes, path: Path, data: TorchvisionData) -> NDArray[np.uint8]:
    """An IDX file of bytes: magic 0 0 8 n, n big-endian sizes, then the values (yann.lecun.com/exdb/mnist)."""
    n_dims = content[3] if len(content) > 3 else 0
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * n_dims:
        raise _damaged(path, "not an IDX file", data)
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", n_dims, 4))
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * n_dims)
    if values.size != int(np.prod(shape)):
        raise _damaged(path, f"{values.size} values where the header says {int(np.prod(shape))}", data)
    return values.reshape(shape)


def _cifar10(data: TorchvisionData, root: Path) -> tuple[Labelled, Labelled]:
    """Training and test set: the unpacked batches, or else the archive as downloaded."""
    folder, archive = root / CIFAR10_FOLDER, root / CIFAR10_ARCHIVE[0]

    def complete() -> bool:
        return archive.exists() or all((folder / name).exists() for name in CIFAR10_MD5)

    _ensure(data, root, complete, [folder / name for name in CIFAR10_MD5])
    batches = []
    if all((folder / name).exists() for name in CIFAR10_MD5):
        for name, md5 in CIFAR10_MD5.items():
            batches.append(_cifar10_batch(_checked_bytes(folder / name, md5, data), folder / name, data))
    else:
        with tarfile.open(fileobj=io.BytesIO(_checked_bytes(archive, CIFAR10_ARCHIVE[1], data))) as tar:
            for name in CIFAR10_MD5:
                member = tar.extractfile(f"{CIFAR10_FOLDER}/{name}")
                assert member is not None, name  # the archive is the one whose sum was checked
                batches.append(_cifar10_batch(member.read(), archive, data))
    train = np.concatenate([x for x, _ in batches[:-1]]), np.concatenate([y for _, y in batches[:-1]])
    return train, batches[-1]


def _cifar10_batch(content: bytes, path: Path, data: TorchvisionData) -> Labelled:
    batch = pickle.loads(content, encoding="latin1")  # the content is the publisher's: its sum was checked
    return _labelled(
        np.asarray(batch["data"]).reshape(-1, 3, 32, 32), np.asarray(batch["labels"], np.uint8), path, data
    )


def _labelled(x: NDArray[np.uint8], y: NDArray[np.uint8], path: Path, data: TorchvisionData) -> Labelled:
    if len(x) != len(y) or y.max(initial=0) > 9:
        raise _damaged(path, f"{len(x)} images with {len(y)} labels up to {y.max(initial=0)}", data)
    return x, y


def _ensure(data: TorchvisionData, root: Path, complete: Callable[[], bool], files: list[Path]) -> None:
    """Downloads the data set if some of its files are missing; one process does it while the others wait."""
    if complete():
        return
    missing = next((path for path in files if not path.exists()), files[0])
    manual = f"or copy torchvision's files of {data.name} there, or point data.root to a folder that holds them"
    if not data.download:
        raise ConfigError("data.root", data.root, f"{missing} is missing; set data.download=true, {manual}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(str(root / f".{data.name}.lock")):
            if not complete():
                from torchvision import datasets

                kinds = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}
                getattr(datasets, kinds[data.name])(str(root), download=True)
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:  # URLError is an OSError
        reason = f"{missing} is missing and could not be downloaded ({error})"
        raise ConfigError("data.root", data.root, f"{reason}; check the network, {manual}") from error
    if not complete():
        raise ConfigError("data.root", data.root, f"{missing} is missing after the download; {manual}")


def _checked_bytes(path: Path, md5: str, data: TorchvisionData) -> bytes:
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise _damaged(path, f"its MD5 is {found} instead of {md5}", data)
    return content


def _damaged(path: Path, reason: str, data: TorchvisionData) -> ConfigError:
    fix = "delete it and run again with data.download=true, or copy torchvision's file there"
    return ConfigError("data.root", data.root, f"{path} is damaged ({reason}); {fix}")
