"""The user's own pictures, one folder per class: decoded once, kept as one array on disk that all processes share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, ImageOps

from src.data.sources.source import Source, content_digest, moments
from src.data.stream import Bank
from src.errors import ConfigError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
CACHE_VERSION = 1
"""Raise it when pictures are decoded in another way."""


@dataclass(frozen=True)
class Picture:
    """One file: its path relative to the tree, its class and whether it lies in the tree's own test set."""

    path: str
    label: int
    is_test: bool
    size: int
    mtime_ns: int


def load_image_folder(
    path: str, *, key: str, image_size: int, channels: int, root: Path, caches: Sequence[Path]
) -> Source:
    """Pictures of `path`/CLASS/**, uint8 [N, channels, image_size, image_size], mapped to memory from a cache on disk.

    Each is turned upright, scaled so that its shorter side fits and cropped in the middle to a square. A tree of train/
    and test/ with class folders in each has its own test set. The first writable of `caches` holds the cache, addressed
    by the names, sizes and times of all files. Raises ConfigError under `key`, e.g. naming a picture that is damaged.
    """
    tree = find(path, root, key)
    class_names, pictures = list_pictures(tree, key, path)
    name = _address(class_names, pictures, image_size, channels)
    for cache in caches:
        if (found := _read(cache / name)) is not None:
            return found
    cache = _writable(caches)
    with FileLock(str(cache / f"{name}.lock")):
        found = _read(cache / name)  # another process may have decoded the pictures meanwhile
        if found is None:
            shutil.rmtree(cache / name, ignore_errors=True)
            _decode_all(tree, class_names, pictures, (channels, image_size), cache / name, key, path)
            found = _read(cache / name)
            assert found is not None
    return found


def find(path: str, root: Path, key: str) -> Path:
    """The existing file or folder that `path` means: as it is, or else inside the data root."""
    places = [Path(path).expanduser()]
    if not places[0].is_absolute():
        places.append(root / path)
    for place in places:
        if place.exists():
            return place
    looked = " and ".join(str(place) for place in places)
    raise ConfigError(key, path, f"does not exist (looked for {looked}); give the path of your data")


def list_pictures(tree: Path, key: str, path: str) -> tuple[tuple[str, ...], list[Picture]]:
    """Class names in alphabetical order, and all pictures: by class, then by name, the tree's own test set last."""
    if not tree.is_dir():
        raise ConfigError(key, path, "is not a folder; give a folder that has one folder of pictures for each class")
    folders = _folders(tree)
    if {"train", "test"} <= set(folders):
        if len(folders) > 2:
            others = ", ".join(name for name in folders if name not in ("train", "test"))
            raise ConfigError(key, path, f"has {others} beside train and test; move it away or give path={path}/train")
        halves = [(tree / "train", False), (tree / "test", True)]
    else:
        halves = [(tree, False)]
    class_names = tuple(_folders(halves[0][0]))
    if len(class_names) < 2:
        raise ConfigError(key, path, f"has {len(class_names)} class folders in {halves[0][0]}; it needs 2 or more")
    pictures = []
    for half, is_test in halves:
        if (found := _folders(half)) != list(class_names):
            wrong = ", ".join(sorted(set(found) ^ set(class_names)))
            raise ConfigError(key, path, f"train and test must have the same class folders; only one has {wrong}")
        for label, name in enumerate(class_names):
            files = sorted(_files(half / name))
            if not files:
                kinds = ", ".join(sorted(SUFFIXES))
                raise ConfigError(key, path, f"{half / name} holds no picture ({kinds}); add some or remove the folder")
            pictures += [Picture(os.path.relpath(f, tree), label, is_test, size, time) for f, size, time in files]
    return class_names, pictures


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Path, size in bytes and modification time of every picture below the folder."""
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(Path(entry.path))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            status = entry.stat()
            yield entry.path, status.st_size, status.st_mtime_ns


def _address(class_names: Sequence[str], pictures: Sequence[Picture], image_size: int, channels: int) -> str:
    h = hashlib.blake2b(repr((CACHE_VERSION, tuple(class_names), image_size, channels)).encode(), digest_size=16)
    for picture in pictures:
        h.update(repr(picture).encode(errors="surrogateescape"))
    return h.hexdigest()


def _writable(caches: Sequence[Path]) -> Path:
    for cache in caches:
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(cache, os.W_OK):
            return cache
    looked = " nor ".join(str(cache) for cache in caches)
    raise ConfigError(
        "data.root", str(caches[0].parent), f"cannot write {looked}; point data.root to a writable folder"
    )


def _read(folder: Path) -> Source | None:
    """The source of a complete cache folder; None if there is none, or if a file in it is not as it was written."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if any((folder / name).stat().st_size != size for name, size in meta["bytes"].items()):
            return None
        x = torch.from_numpy(np.load(folder / "x.npy", mmap_mode="c"))
        y = torch.from_numpy(np.load(folder / "y.npy"))
        is_test = torch.from_numpy(np.load(folder / "is_test.npy"))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return None
    mean, std = (torch.tensor(meta[name], dtype=torch.float64) for name in ("mean", "std"))
    official_test = is_test if is_test.any() else None
    return Source(Bank(x, mean, std), y, tuple(meta["class_names"]), meta["digest"], official_test)


def _decode_all(
    tree: Path,
    class_names: tuple[str, ...],
    pictures: Sequence[Picture],
    shape: tuple[int, int],
    target: Path,
    key: str,
    path: str,
) -> None:
    """Writes the cache folder; it gets its name last, so that what has the name is complete."""
    channels, size = shape
    work = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        dtype = np.dtype(np.uint8)
        x = np.lib.format.open_memmap(work / "x.npy", "w+", dtype, (len(pictures), channels, size, size))

        def decode(row: int) -> None:
            file = tree / pictures[row].path
            try:
                x[row] = decode_picture(file, size, channels)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise ConfigError(key, path, f"cannot read picture {file} ({error}); repair or remove it") from error

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
            try:
                for _ in pool.map(decode, range(len(pictures))):
                    pass
            except ConfigError:
                pool.shutdown(cancel_futures=True)
                raise
        x.flush()
        y = np.array([picture.label for picture in pictures], np.int64)
        is_test = np.array([picture.is_test for picture in pictures])
        np.save(work / "y.npy", y)
        np.save(work / "is_test.npy", is_test)
        tensors = torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(is_test)
        official_test = tensors[2] if is_test.any() else None
        mean, std = moments(tensors[0], official_test)
        meta = {
            "digest": content_digest(tensors[0], tensors[1], class_names, official_test),
            "class_names": class_names,
            "mean": mean.tolist(),
            "std": std.tolist(),
            "bytes": {file.name: file.stat().st_size for file in work.iterdir()},
        }
        (work / "meta.json").write_text(json.dumps(meta, indent=1))
        work.chmod(0o755)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def decode_picture(file: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """One picture as uint8 [channels, size, size]: upright, shorter side fitted, cropped in the middle (bicubic)."""
    with Image.open(file) as picture:
        mode = "RGB" if channels == 3 else "L"
        picture.draft(mode, (2 * size, 2 * size))  # a large JPEG is decoded at a fraction of its size, which is faster
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8 instead of scaling them
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        elif upright.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {upright.mode} have no known range; save it with 8 or 16 bits a channel")
        elif upright.mode in ("P", "PA"):
            upright = upright.convert("RGBA")
        upright = upright.convert(mode)
        if upright.size != (size, size):
            upright = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
        pixels = np.asarray(upright, np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
