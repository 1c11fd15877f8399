"""`data=arrays`: inputs and labels in a .npz file, in a folder of .npy files, or in columns of a Parquet file."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from src.data.sources.base import PathConfig, SourceConfig
from src.environment import require_loadable
from src.errors import ConfigError, foreign_file
from src.typed import bounds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from src.data.source import Source

WRITE = "write it with numpy.savez(file, x=..., y=...), of plain arrays"


@dataclass(frozen=True, kw_only=True)
class ArraysData(PathConfig):
    """Inputs [n, ...] and n labels: whole numbers or texts are classes, floating point is a regression target."""

    suffix = ".npz"

    image_size: int | None = field(metadata=bounds(ge=1, le=1024))
    """Resize images to a square of this side; null: keep their size."""
    x_key: str
    """Name of the inputs in the file: images [n, h, w], [n, c, h, w] or [n, h, w, c], or features [n, d]."""
    y_key: str
    """Name of the labels in the file."""

    def read(self, path: Path, cache: Path) -> Source:
        import numpy as np
        import torch

        from src.data.source import make_source, resize

        x, y = self._arrays(path)
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
            shapes = f"{self.x_key} is {list(x.shape)} and {self.y_key} {list(y.shape)}"
            raise self.error(f"{shapes}; they need as many rows, one label for each input")
        inputs = self._inputs(x)
        if self.image_size is not None:
            if inputs.ndim != 4:
                problem = f"has no effect on {self.path}: {self.x_key} has no images; set null"
                raise ConfigError("data.image_size", self.image_size, problem)
            inputs = resize(inputs, self.image_size, self.image_size)
        if y.dtype.kind == "f":
            if not np.isfinite(y).all():
                raise self.error(f"{self.y_key} has values that are not finite; remove those rows")
            return make_source(inputs, torch.from_numpy(y.reshape(len(y), -1)), None)
        if y.size != len(y) or y.dtype.kind not in "iubU":
            problem = f"{self.y_key} is {y.dtype} {list(y.shape)}; labels are one whole number or text a row"
            raise self.error(problem)
        classes, labels = np.unique(y.reshape(-1), return_inverse=True)
        return make_source(inputs, torch.from_numpy(labels.astype(np.int64)), tuple(str(name) for name in classes))

    @classmethod
    def as_shift(cls, value: str, data: SourceConfig, first: Source) -> SourceConfig:
        x_key, y_key = (data.x_key, data.y_key) if isinstance(data, ArraysData) else ("x", "y")
        return cls(name="arrays", root=data.root, path=value, path2=None, image_size=None, x_key=x_key, y_key=y_key)

    def _arrays(self, file: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        import numpy as np

        with foreign_file("data.path", self.path, file, WRITE):
            if file.is_dir():
                self._require_names(file, sorted(each.stem for each in file.glob("*.npy")))
                files = [file / f"{name}.npy" for name in (self.x_key, self.y_key)]
                for each in files:
                    require_loadable(each)
                x, y = (np.load(each, allow_pickle=False) for each in files)
                return x, y
            require_loadable(file)
            if file.suffix.lower() == ".parquet":
                return self._columns(file)
            if file.suffix.lower() == ".npy":
                fix = f"put it into a folder of {self.x_key}.npy and {self.y_key}.npy, and give the folder"
                raise self.error(f"{file} holds one array without names; {fix}")
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no .npz archive")
            archive = np.load(file, allow_pickle=False)
            with archive:
                self._require_names(file, archive.files)
                require_loadable(file, sum(member.file_size for member in archive.zip.infolist()))
                x, y = archive[self.x_key], archive[self.y_key]
                if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)):
                    raise self.error(f"{file} is no archive of arrays; {WRITE}")
                return x, y

    def _require_names(self, file: Path, names: Sequence[str]) -> None:
        for name_key, name in (("x_key", self.x_key), ("y_key", self.y_key)):
            if name not in names:
                others = f"set data.{name_key} to one of {', '.join(names)}" if names else WRITE
                raise self.error(f"{file} has no array {name}; {others}")

    def _columns(self, file: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        """The arrays in two columns of a Parquet file: a list, or a list of lists, is a sample of that shape."""
        import numpy as np
        import pyarrow.parquet

        self._require_names(file, pyarrow.parquet.read_schema(file).names)
        table = pyarrow.parquet.read_table(file, columns=[self.x_key, self.y_key])
        x, y = (np.array(table[name].to_pylist()) for name in (self.x_key, self.y_key))
        return x, y

    def _inputs(self, x: NDArray[np.generic]) -> Tensor:
        """Images as [n, c, h, w], whole-number pixels as bytes; features [n, d] as floating point."""
        import numpy as np
        import torch

        if x.dtype.kind not in "fiu":
            raise self.error(f"inputs are {x.dtype}; store numbers")
        shape = list(x.shape)
        if x.ndim == 3:
            x = x[:, None]
        elif x.ndim == 4 and x.shape[1] not in (1, 3, 4):
            if x.shape[3] not in (1, 3, 4):
                raise self.error(f"images are {shape}; the second or last size must be 1, 3 or 4 channels")
            x = x.transpose(0, 3, 1, 2)
        elif x.ndim not in (2, 4):
            raise self.error(f"inputs are {shape}; store [n, h, w], [n, c, h, w], [n, h, w, c] or [n, d]")
        if x.dtype.kind == "f":
            if not np.isfinite(x).all():
                raise self.error("inputs have values that are not finite; remove those rows")
            x = x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)
        elif x.ndim == 4 and x.dtype != np.uint8:
            if x.min() < 0 or x.max() > 255:
                raise self.error(f"whole-number pixels range from {x.min()} to {x.max()}; store them as 0..255")
            x = x.astype(np.uint8)
        elif x.ndim == 2:
            x = x.astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(x))
