"""`data=image_folder`: the user's own images, one folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from src.data.sources.base import PathConfig, SourceConfig, path_reported_as
from src.errors import ConfigError
from src.typed import bounds

if TYPE_CHECKING:
    from src.data.image_cache import ImageFile
    from src.data.source import Source

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, kw_only=True)
class ImageFolderData(PathConfig):
    """Images `path`/CLASS/**, uint8 [N, channels, image_size, image_size].

    A tree with train/ and test/, and class folders in each, has its own test set.
    """

    suffix = ""

    image_size: int = field(metadata=bounds(ge=1, le=1024))
    """The shorter side is scaled to this; the middle square is kept."""
    channels: Literal[1, 3]
    """1: grey, 3: RGB."""

    def read(self, path: Path, cache: Path) -> Source:
        from src.data.image_cache import load_images

        class_names, files = self._list(path)
        caches = [self.folder / ".cache", cache]
        with path_reported_as("data.path", self.path):
            return load_images(path, class_names, files, (self.channels, self.image_size), caches)

    @classmethod
    def as_shift(cls, value: str, data: SourceConfig, first: Source) -> SourceConfig:
        shape = first.bank.input_shape
        if len(shape) != 3 or shape[0] not in (1, 3):
            problem = "is a folder of images, but Dataset 1 has no images; name another source"
            raise ConfigError("split.shift.source", value, problem)
        channels: Literal[1, 3] = 1 if shape[0] == 1 else 3
        return cls(
            name="image_folder", root=data.root, path=value, path2=None, image_size=max(shape[1:]), channels=channels
        )

    def _list(self, tree: Path) -> tuple[tuple[str, ...], list[ImageFile]]:
        """Class names in alphabetical order, and all images: by class, then by name, the tree's own test set last."""
        from src.data.image_cache import ImageFile

        def refuse(problem: str) -> ConfigError:
            return ConfigError("data.path", self.path, problem)

        if not tree.is_dir():
            raise refuse("is not a folder; give a folder that has one folder of images for each class")
        halves = {tree: False}
        folders = _folders(tree)
        if {"train", "test"} <= set(folders):
            if len(folders) > 2:
                others = ", ".join(name for name in folders if name not in ("train", "test"))
                raise refuse(f"has {others} next to train and test; move it away or give path={self.path}/train")
            halves = {tree / "train": False, tree / "test": True}
        class_names = tuple(_folders(next(iter(halves))))
        if len(class_names) < 2:
            raise refuse(f"has {len(class_names)} class folders in {next(iter(halves))}; it needs 2 or more")
        images = []
        for half, is_test in halves.items():
            if (found := _folders(half)) != list(class_names):
                wrong = ", ".join(sorted(set(found) ^ set(class_names)))
                raise refuse(f"train and test must have the same class folders; only one has {wrong}")
            for label, name in enumerate(class_names):
                files = sorted(_files(half / name))
                if not files:
                    kinds = ", ".join(sorted(SUFFIXES))
                    raise refuse(f"{half / name} holds no image ({kinds}); add some or remove the folder")
                images += [ImageFile(os.path.relpath(f, tree), label, is_test, size, time) for f, size, time in files]
        return class_names, images


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Path, size in bytes and modification time (ns) of every image below the folder."""
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(Path(entry.path))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            status = entry.stat()
            yield entry.path, status.st_size, status.st_mtime_ns
