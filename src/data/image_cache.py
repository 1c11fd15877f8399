"""Decoded images of a folder: decoded once, kept as one array on disk that all processes map to memory.

The array is addressed by the digests of the files; a file is read again unless its file system vouches that it is
unchanged. Names, sizes and modification times can be equal for different files (`touch -d`, `tar`, `rsync -t`). The
index of digests is therefore keyed by inode and change time as well, which no program can set, and is used only on file
systems that keep both.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from src.data.source import Source, content_digest, moments
from src.data.stream import Bank
from src.errors import ConfigError, foreign_file
from src.io import bytes_digest, read_json_or, write_atomically
from src.locks import LONG_SECONDS, locked

SHOWN = 10
"""Damaged files that a line lists at most."""
CACHE_VERSION = 2
"""Increase it when images are decoded in another way."""


@dataclass(frozen=True)
class ImageFile:
    """One file of a tree. `is_test`: whether it is part of the tree's own test set."""

    path: Path
    label: int
    is_test: bool
    status: os.stat_result


def load_images(
    tree: Path,
    class_names: tuple[str, ...],
    files: Sequence[ImageFile],
    shape: tuple[int, int],
    caches: Sequence[Path],
    *,
    skip_damaged: bool = False,
) -> Source:
    """Images as uint8 [N, channels, size, size], upright, scaled to fit their shorter side and cropped in the middle.

    `files`: all images below `tree`, in the order of the source. `shape`: channels and size. The first writable folder
    of `caches` gets the cache. Raises ConfigError (under `data.path`) if an image is damaged, unless `skip_damaged`
    leaves it out, or if no cache is writable.
    """
    digests = file_digests(tree, [(file.path, file.status) for file in files], caches, "data.path")
    name = _address(class_names, files, digests, shape)
    for cache in caches:
        if (found := _read(cache / name)) is not None:
            return found
    cache = _writable(caches)
    with locked(cache / f"{name}.lock", seconds=LONG_SECONDS):
        found = _read(cache / name)  # another process may have decoded the images while this one waited
        if found is None:
            shutil.rmtree(cache / name, ignore_errors=True)
            damaged = read_json_or(cache / f"{name}.damaged.json") or _decode_all(
                tree, class_names, files, digests, shape, cache / name
            )
            found = _read(cache / name)
    if found is None:
        _report_damaged(tree, damaged, skip_damaged)
        write_atomically(cache / f"{name}.damaged.json", json.dumps(damaged), durable=False)
        whole = [file for row, file in enumerate(files) if str(row) not in damaged]
        for label, class_name in enumerate(class_names):
            if not any(file.label == label for file in whole):
                raise ConfigError("data.path", str(tree), f"no image of {class_name} can be read; repair some")
        return load_images(tree, class_names, whole, shape, caches)
    return found


def _report_damaged(tree: Path, damaged: Mapping[str, str], skip: bool) -> None:
    """Prints which images are left out. Raises ConfigError, which lists them, unless they are to be skipped."""
    listed = ", ".join(list(damaged.values())[:SHOWN]) + (
        f" and {len(damaged) - SHOWN} more" if len(damaged) > SHOWN else ""
    )
    if not skip:
        problem = f"cannot read {listed}; repair or remove {'it' if len(damaged) == 1 else 'them'}"
        raise ConfigError("data.path", str(tree), f"{problem}, or set data.skip_damaged=true")
    print(f"data.path={tree}: left out {len(damaged)} damaged: {listed}", file=sys.stderr)


def _address(
    class_names: tuple[str, ...], files: Sequence[ImageFile], digests: Sequence[str], shape: tuple[int, int]
) -> str:
    lines = [f"{file.label} {file.is_test} {digest}\n" for file, digest in zip(files, digests, strict=True)]
    return bytes_digest("".join([repr((CACHE_VERSION, class_names, shape)), *lines]).encode(), 16)


def _writable(caches: Sequence[Path]) -> Path:
    for cache in caches:
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(cache, os.W_OK):
            return cache
    tried = " nor ".join(str(cache) for cache in caches)
    fix = "point data.root to a writable folder"
    raise ConfigError("data.root", str(caches[0].parent), f"cannot write {tried}; {fix}")


def _read(folder: Path) -> Source | None:
    """The source of a complete cache folder; None if it is missing or a file has another size than was written."""
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
    files: Sequence[ImageFile],
    digests: Sequence[str],
    shape: tuple[int, int],
    target: Path,
) -> dict[str, str]:
    """Write the cache folder. It is renamed to its final name last, so a folder of that name is complete.

    Returns the damaged files with the reason, by their row, and writes nothing if there are any.
    """
    channels, size = shape
    damaged: dict[int, str] = {}
    work = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        full = (len(files), channels, size, size)
        pixels = np.lib.format.open_memmap(work / "x.npy", "w+", np.dtype(np.uint8), full)

        def decode(row: int) -> None:
            file = files[row].path
            with foreign_file("data.path", str(tree), file, "make it readable or remove it"):
                content = file.read_bytes()
                if bytes_digest(content, 16) != digests[row]:
                    raise ConfigError("data.path", str(tree), f"{file} changed while it was read; run again")
                try:
                    pixels[row] = decode_image(io.BytesIO(content), size, channels)
                except MemoryError:
                    raise
                except Exception as error:  # a decoder raises whatever it runs into
                    reason = str(error) if isinstance(error, OSError | ValueError) and str(error) else f"{error!r}"
                    damaged[row] = f"{file} ({' '.join(reason.split())[:300]})"

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the interpreter's lock
            try:
                for _ in pool.map(decode, range(len(files))):
                    pass
            except ConfigError:
                pool.shutdown(cancel_futures=True)
                raise
        if damaged:
            shutil.rmtree(work, ignore_errors=True)
            return {str(row): damaged[row] for row in sorted(damaged)}
        pixels.flush()
        labels = np.array([file.label for file in files], np.int64)
        is_test = np.array([file.is_test for file in files])
        np.save(work / "y.npy", labels)
        np.save(work / "is_test.npy", is_test)
        x, y = torch.from_numpy(pixels), torch.from_numpy(labels)
        official_test = torch.from_numpy(is_test) if is_test.any() else None
        mean, std = moments(x, official_test)
        meta = {
            "digest": content_digest(x, y, class_names, official_test),
            "class_names": class_names,
            "mean": mean.tolist(),
            "std": std.tolist(),
            "bytes": {file.name: file.stat().st_size for file in work.iterdir()},
        }
        (work / "meta.json").write_text(json.dumps(meta, indent=1))
        work.chmod(0o755)
        work.rename(target)
        return {}
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def decode_image(file: Path | IO[bytes], size: int, channels: int) -> NDArray[np.uint8]:
    """One image as uint8 [channels, size, size]: upright, shorter side fitted, cropped in the middle (bicubic)."""
    try:
        opened = Image.open(file)
    except UnidentifiedImageError as error:
        raise ValueError("no image in a format that Pillow reads") from error
    with opened as image:
        image.draft(
            "RGB" if channels == 3 else "L", (2 * size, 2 * size)
        )  # decodes a large JPEG at a fraction of its size
        return pixels_of(image, size, channels)


def pixels_of(image: Image.Image, size: int | None, channels: int) -> NDArray[np.uint8]:
    """An open image as in `decode_image`; None leaves its size as it is."""
    upright = ImageOps.exif_transpose(image)
    is_16_bit_pgm = image.format == "PPM" and upright.mode == "I"  # Pillow scales it to 0..65535
    if upright.mode.startswith("I;16") or is_16_bit_pgm:  # Pillow would clip 16 bits to 8 instead of scaling them
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    elif upright.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {upright.mode} have no known range; save it with 8 or 16 bits a channel")
    elif upright.mode in ("P", "PA"):
        upright = upright.convert("RGBA")
    upright = upright.convert("RGB" if channels == 3 else "L")
    if size is not None and upright.size != (size, size):
        upright = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(upright, np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


VOUCHING = frozenset({"beegfs", "ceph", "ext2", "ext3", "ext4", "f2fs", "lustre", "nfs", "nfs4", "tmpfs", "xfs", "zfs"})
"""File systems that date every change of a file by their own clock. Others (FAT, squashfs, FUSE) may derive that
date."""
SETTLED_NS = 2 * 10**9
"""A file that changed more recently may change again under the same date, so its digest is not kept."""

StatedFile = tuple[Path, os.stat_result]


def file_digests(tree: Path, files: Sequence[StatedFile], folders: Sequence[Path], key: str) -> list[str]:
    """The digest of every file below `tree`; the first writable folder gets its index. `key` names the tree."""
    name = f"files-{bytes_digest(os.fsencode(os.path.realpath(tree)), 16)}.json"
    vouched = {device: _vouches(device) for device in {status.st_dev for _, status in files}}
    known: Mapping[str, str] = {}
    for folder in folders if any(vouched.values()) else ():
        with suppress(OSError):
            known = known or read_json_or(folder / name)
    kept: dict[str, str] = {}
    found = []
    for path, status in files:
        address = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
        digest = known.get(address) if vouched[status.st_dev] else None
        if digest is None:
            started = time.time_ns()
            with foreign_file(key, str(tree), path, "make it readable or remove it"):
                digest = bytes_digest(path.read_bytes(), 16)
            if vouched[status.st_dev] and status.st_ctime_ns < started - SETTLED_NS:
                kept[address] = digest
        else:
            kept[address] = digest
        found.append(digest)
    if kept != known:
        for folder in folders:
            with suppress(OSError):  # without an index the next command only takes longer
                write_atomically(folder / name, json.dumps(kept), durable=False)
                break
    return found


def _vouches(device: int) -> bool:
    """Whether a mounted file system keeps change times, and is no read-only image, in which any date can be written."""
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            mount, _, system = line.partition(" - ")
            if mount.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                kind, _, options = system.split(" ", 2)
                return kind in VOUCHING and "ro" not in options.split(",")
    return False
