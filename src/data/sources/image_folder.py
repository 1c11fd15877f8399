"""`data=image_folder`: the user's own images, one folder per class."""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from src.data.sources.base import PathConfig, SourceConfig, path_reported_as
from src.errors import ConfigError, foreign_file, require_utf8
from src.typed import bounds

if TYPE_CHECKING:
    from src.data.image_cache import ImageFile
    from src.data.source import Source

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_FILE_BYTES = 2**30
VALIDATION_NAMES = frozenset({"val", "valid", "validation", "dev"})
SPLIT_NAMES = VALIDATION_NAMES | {"train", "training", "test", "testing", "eval"}
"""Folders so named hold parts of a data set rather than classes, if there are two of them or nothing else."""


@dataclass(frozen=True, kw_only=True)
class ImageFolderData(PathConfig):
    """Images `path`/CLASS/**, uint8 [N, channels, image_size, image_size].

    A tree with train/ and test/, and class folders in each, has its own test set; images of val/ join those of train/.
    """

    suffix = ""
    where = PathConfig.where | {"skip_damaged"}  # the digest of the content says what is left out

    image_size: int = field(metadata=bounds(ge=1, le=1024))
    """The shorter side is scaled to this; the middle square is kept."""
    channels: Literal[1, 3]
    """1: grey, 3: RGB."""
    skip_damaged: bool = False
    """Whether images that cannot be read are left out (and listed) in place of being refused."""

    @property
    def preparation(self) -> str:
        """See `SourceConfig`; a subclass with its own `read` has none. Pictures of 16 bits are read otherwise."""
        if type(self).read is not ImageFolderData.read:
            return ""
        mode, size = "RGB" if self.channels == 3 else "L", self.image_size
        axes = ".transpose(2, 0, 1)[None]" if self.channels == 3 else "[None, None]"
        return f"""import numpy
from PIL import Image, ImageOps

image = Image.open(FILE)
image.draft({mode!r}, ({2 * size}, {2 * size}))
image = ImageOps.exif_transpose(image).convert({mode!r})
image = ImageOps.fit(image, ({size}, {size}), Image.Resampling.BICUBIC)
x = numpy.array(image){axes}"""

    def read(self, path: Path, cache: Path) -> Source:
        from src.data.image_cache import load_images

        skipped: Counter[str] = Counter()
        caches = [self.folder / ".cache", cache]
        with path_reported_as("data.path", self.path):
            class_names, files = self._list(path, skipped)
            if skipped:
                kinds = ", ".join(f"{kind} ({n})" for kind, n in sorted(skipped.items()))
                read = ", ".join(sorted(SUFFIXES))
                print(f"data.path={self.path}: skipped {kinds}; images are {read} in class folders", file=sys.stderr)
            shape = (self.channels, self.image_size)
            return load_images(path, class_names, files, shape, caches, skip_damaged=self.skip_damaged)

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

    def _list(self, tree: Path, skipped: Counter[str]) -> tuple[tuple[str, ...], list[ImageFile]]:
        """Class names in alphabetical order, and all images: by class, then by name, the tree's own test set last.

        `skipped` counts the entries that are no image, by kind.
        """
        from src.data.image_cache import ImageFile

        if not tree.is_dir():
            raise self.error("is not a folder; give a folder that has one folder of images for each class")
        halves = self._halves(tree, skipped)
        found = {half: self._folders(half, skipped) for half in halves}
        class_names = tuple(next(iter(found.values())))
        if not class_names:
            raise self.error(f"has no class folders in {next(iter(halves))}; make one for each class")
        images = []
        for half, is_test in halves.items():
            if found[half] != list(class_names):
                wrong = ", ".join(sorted(set(found[half]) ^ set(class_names)))
                raise self.error(f"train and {half.name} must have the same class folders; only one has {wrong}")
            for label, name in enumerate(class_names):
                require_utf8("data.path", self.path, str(half / name), "rename the folder")
                files = sorted(self._files(half / name, (), skipped), key=lambda file: str(file[0]))
                if not files:
                    kinds = ", ".join(sorted(SUFFIXES))
                    raise self.error(f"{half / name} holds no image ({kinds}); add some or remove the folder")
                images += [ImageFile(file, label, is_test, status) for file, status in files]
        return class_names, images

    def _halves(self, tree: Path, skipped: Counter[str]) -> dict[Path, bool]:
        """The folders that hold class folders, and whether each is a test set."""
        folders = self._folders(tree, Counter())
        splits = [name for name in folders if name.lower() in SPLIT_NAMES]
        if {"train", "test"} <= set(folders):
            held_out = [name for name in folders if name.lower() in VALIDATION_NAMES]
            if others := ", ".join(name for name in folders if name not in ("train", "test", *held_out)):
                problem = f"has {others} next to train and test; move it away or give data.path={self.path}/train"
                raise self.error(problem)
            if held_out:
                joined = f"{', '.join(held_out)} joins train, of which split.val holds out a share for each seed"
                print(f"data.path={self.path}: {joined}", file=sys.stderr)
            self._folders(tree, skipped)
            return {tree / "train": False, **{tree / name: False for name in held_out}, tree / "test": True}
        if len(splits) > 1 or (splits and splits == folders):
            train = next((name for name in splits if name.lower().startswith("train")), splits[0])
            fix = f"give data.path={self.path}/{train}"
            if len(splits) == len(folders) == 2 and train.lower().startswith("train"):
                fix += ", or name the two train and test: test is then the test set"
            raise self.error(f"has folders named {', '.join(splits)}, which are no classes; {fix}")
        return {tree: False}

    def _folders(self, folder: Path, skipped: Counter[str]) -> list[str]:
        """Names of the folders in `folder`, sorted; everything else in it is skipped."""
        with foreign_file("data.path", self.path, folder, "make it readable"):
            entries = list(os.scandir(folder))
            is_class = {entry.name: entry.is_dir() and not entry.name.startswith(".") for entry in entries}
        skipped.update(_kind(name) for name, is_folder in is_class.items() if not is_folder)
        return sorted(name for name, is_folder in is_class.items() if is_folder)

    def _files(
        self, folder: Path, inside: tuple[str, ...], skipped: Counter[str]
    ) -> Iterator[tuple[Path, os.stat_result]]:
        """Path and status of every image below the folder; `inside`: the real paths of the folders around it."""
        real = os.path.realpath(folder)
        if real in inside:
            raise self.error(f"{folder} is a link to a folder that it lies in, {real}; remove the link")
        with foreign_file("data.path", self.path, folder, "make it readable or remove it"):
            entries = list(os.scandir(folder))
        for entry in entries:
            path = Path(entry.path)
            with foreign_file("data.path", self.path, path, "repair or remove it"):
                is_folder = entry.is_dir()
                is_image = not is_folder and os.path.splitext(entry.name)[1].lower() in SUFFIXES
                status = entry.stat() if is_image and not entry.name.startswith(".") else None
                if status is not None and not (stat.S_ISREG(status.st_mode) and status.st_size <= MAX_FILE_BYTES):
                    raise ValueError(f"it is no regular file of at most {MAX_FILE_BYTES:,} bytes")
            if status is not None:
                yield path, status
            elif is_folder and not entry.name.startswith("."):
                yield from self._files(path, (*inside, real), skipped)
            else:
                skipped[_kind(entry.name)] += 1


def _kind(name: str) -> str:
    """What a skipped entry is counted as: its suffix, if it is not hidden."""
    if name.startswith("."):
        return "hidden"
    return os.path.splitext(name)[1].lower() or "without suffix"
