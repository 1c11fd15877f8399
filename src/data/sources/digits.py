"""`data=digits`: scikit-learn's 1,797 real 8x8 images of handwritten digits; part of the package, no download."""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.data.sources.base import SourceConfig

if TYPE_CHECKING:
    from src.data.source import Source


@dataclass(frozen=True, kw_only=True)
class DigitsData(SourceConfig):
    """Images [1, 8, 8] of 0..1, classes 0 to 9."""

    def load(self, cache: Path) -> Source:
        import numpy as np
        import torch

        from src.data.source import make_source

        package = importlib.util.find_spec("sklearn")  # its file is read directly: an import takes a second
        assert package is not None
        assert package.submodule_search_locations
        file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
        table = np.loadtxt(gzip.decompress(file.read_bytes()).decode().splitlines(), delimiter=",", dtype=np.float32)
        x = torch.from_numpy(table[:, :-1].reshape(-1, 1, 8, 8) / 16)
        y = torch.from_numpy(table[:, -1].astype(np.int64))
        return make_source(x, y, tuple(str(digit) for digit in range(10)))

    @classmethod
    def as_shift(cls, value: str, data: SourceConfig, first: Source) -> SourceConfig:
        return cls(name=value, root=data.root)
