"""The sources by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from src.data.sources.arrays import ArraysData
from src.data.sources.base import SourceConfig, path_reported_as
from src.data.sources.digits import DigitsData
from src.data.sources.gaussian import GaussianData
from src.data.sources.image_folder import ImageFolderData
from src.data.sources.mnist_cifar import TorchvisionData
from src.data.sources.table import TableData
from src.data.sources.torchvision import TorchvisionDataset
from src.errors import ConfigError

if TYPE_CHECKING:
    from src.data.source import Source

SOURCES: dict[str, type[SourceConfig]] = {
    "digits": DigitsData,
    "mnist": TorchvisionData,
    "fashion_mnist": TorchvisionData,
    "cifar10": TorchvisionData,
    "image_folder": ImageFolderData,
    "arrays": ArraysData,
    "table": TableData,
    "gaussian": GaussianData,
    "torchvision": TorchvisionDataset,
}


def load_shift_source(value: str, data: SourceConfig, first: Source, cache: Path) -> Source:
    """Load the source that `split.shift.source` names, in the shape, scale and class numbers of `first`, Dataset 1's.

    `value`: a source's name or a path. `data`: the settings of Dataset 1's source. `cache`: see `SourceConfig.load`.
    """
    from src.data.source import match

    key = "split.shift.source"
    readers = [cls for cls in SOURCES.values() if cls.suffix is not None and value.endswith(cls.suffix)]
    by_name = [SOURCES[value]] if value in SOURCES else []
    for cls in by_name + sorted(readers, key=lambda cls: -len(cls.suffix or "")):
        if (config := cls.as_shift(value, data, first)) is not None:
            with path_reported_as(key, value):
                return match(config.load(cache), first, key, value)
    raise ConfigError(key, value, "cannot be the source of Dataset 2; name another source")
