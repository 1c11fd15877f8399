"""`data=mnist`, `fashion_mnist` and `cifar10`: files in torchvision's layout, which torchvision downloads.

The files are read as downloaded, packed, and checked against torchvision's MD5 sums every time: the data root may be
read-only, and nothing is unpacked. torchvision's own classes need unpacked files, do not check them again, and take
longer to import than the files take to read, so they only download.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from src.data.sources.base import SourceConfig
from src.errors import ConfigError
from src.locks import LONG_SECONDS, locked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from src.data.source import Source

    Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Files:
    """Where torchvision keeps a data set below the data root.

    `kind`: torchvision's class. `md5`: sum of each file in `folder`; training files first. `archive`: name and sum of a
    tar file at the root that holds the same folder; None: the files are packed one by one.
    """

    kind: str
    folder: str
    md5: Mapping[str, str]
    class_names: tuple[str, ...]
    archive: tuple[str, str] | None = None


FILES = {
    "mnist": Files(
        "MNIST",
        "MNIST/raw",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        tuple(str(digit) for digit in range(10)),
    ),
    "fashion_mnist": Files(
        "FashionMNIST",
        "FashionMNIST/raw",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "cifar10": Files(
        "CIFAR10",
        "cifar-10-batches-py",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class TorchvisionData(SourceConfig):
    """MNIST or Fashion-MNIST (60,000 + 10,000 grey images, 28x28) or CIFAR-10 (50,000 + 10,000 RGB, 32x32), uint8."""

    where = frozenset({"root", "download"})

    download: bool
    """Fetch missing files. Files are checked against their MD5 sums either way."""

    def load(self, cache: Path) -> Source:
        """Training files come first, so ids do not depend on the split; the test files are the official test set."""
        import numpy as np
        import torch

        from src.data.source import make_source

        self._ensure()
        batches = self._idx_batches() if self.files.archive is None else self._cifar_batches()
        for images, labels in batches:
            if len(images) != len(labels) or labels.max(initial=0) > 9:
                problem = f"{len(images)} images with {len(labels)} labels up to {labels.max(initial=0)}"
                raise self._damaged(self._folder, problem)
        x = torch.from_numpy(np.concatenate([images for images, _ in batches]))
        y = torch.from_numpy(np.concatenate([labels for _, labels in batches]).astype(np.int64))
        source = make_source(x, y, self.files.class_names, torch.arange(len(y)) >= len(y) - len(batches[-1][1]))
        return replace(source, are_numbered=True)

    @classmethod
    def as_shift(cls, value: str, data: SourceConfig, first: Source) -> SourceConfig:
        return cls(name=value, root=data.root, download=data.download if isinstance(data, TorchvisionData) else True)

    @property
    def files(self) -> Files:
        """The files of the data set."""
        return FILES[self.name]

    @property
    def _folder(self) -> Path:
        return self.folder / self.files.folder

    def _is_complete(self) -> bool:
        if self.files.archive is not None and (self.folder / self.files.archive[0]).exists():
            return True
        paths = [self._folder / name for name in self.files.md5]
        is_packed = self.files.archive is None
        return all(path.exists() or (is_packed and path.with_suffix("").exists()) for path in paths)

    def _ensure(self) -> None:
        """Download missing files. One process downloads while the others wait."""
        if self._is_complete():
            return
        paths = [self._folder / name for name in self.files.md5]
        missing = next((path for path in paths if not path.exists()), paths[0])
        manual = f"or copy torchvision's files of {self.name} there, or point data.root to a folder that holds them"
        if not self.download:
            raise self._error(f"{missing} is missing; set data.download=true, {manual}")
        from torchvision import datasets

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / f".{self.name}.lock", seconds=LONG_SECONDS):
                if not self._is_complete():
                    getattr(datasets, self.files.kind)(str(self.folder), download=True)
        except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:  # URLError is an OSError
            reason = f"{missing} is missing and could not be downloaded ({error})"
            raise self._error(f"{reason}; check the network, {manual}") from error
        if not self._is_complete():
            raise self._error(f"{missing} is missing after the download; {manual}")

    def _idx_batches(self) -> list[Batch]:
        """Training and test set, from the packed files or the unpacked ones if only those were kept."""
        arrays = []
        for name, md5 in self.files.md5.items():
            path = self._folder / name
            if path.exists():
                try:
                    content = gzip.decompress(self._checked(path, md5))
                except (EOFError, OSError, zlib.error) as error:
                    raise self._damaged(path, str(error)) from error
            else:
                path = path.with_suffix("")
                content = path.read_bytes()
            arrays.append(self._parse_idx(content, path))
        return [(arrays[k][:, None], arrays[k + 1]) for k in (0, 2)]

    def _parse_idx(self, content: bytes, path: Path) -> NDArray[np.uint8]:
        """An IDX file of bytes: magic 0 0 8 n, n big-endian sizes, then the values (yann.lecun.com/exdb/mnist)."""
        import numpy as np

        n_dims = content[3] if len(content) > 3 else 0
        if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * n_dims:
            raise self._damaged(path, "not an IDX file")
        shape = tuple(int(size) for size in np.frombuffer(content, ">u4", n_dims, 4))
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * n_dims)
        if values.size != math.prod(shape):
            raise self._damaged(path, f"{values.size} values where the header says {math.prod(shape)}")
        return values.reshape(shape)

    def _cifar_batches(self) -> list[Batch]:
        """Five training batches and the test batch, from the unpacked files or else the archive."""
        import numpy as np

        md5, archive = self.files.md5, self.files.archive
        assert archive is not None
        if all((self._folder / name).exists() for name in md5):
            contents = [self._checked(self._folder / name, expected) for name, expected in md5.items()]
        else:
            packed = io.BytesIO(self._checked(self.folder / archive[0], archive[1]))
            with tarfile.open(fileobj=packed) as tar:
                members = [tar.extractfile(f"{self.files.folder}/{name}") for name in md5]
                contents = [member.read() for member in members if member is not None]
        batches = [pickle.loads(content, encoding="latin1") for content in contents]  # safe: the sums were checked
        return [(np.reshape(b["data"], (-1, 3, 32, 32)), np.asarray(b["labels"], np.uint8)) for b in batches]

    def _checked(self, path: Path, md5: str) -> bytes:
        content = path.read_bytes()
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise self._damaged(path, f"its MD5 is {found} instead of {md5}")
        return content

    def _damaged(self, path: Path, reason: str) -> ConfigError:
        fix = "delete it and run again with data.download=true, or copy torchvision's file there"
        return self._error(f"{path} is damaged ({reason}); {fix}")

    def _error(self, problem: str) -> ConfigError:
        return ConfigError("data.root", self.root, problem)
