"""Digests of the contents of many files; a file is read again unless its file system vouches that it is unchanged.

Names, sizes and modification times can be equal for different files (`touch -d`, `tar`, `rsync -t`). The index is therefore
keyed by inode and change time as well, which no program can set, and is used only on file systems that keep both.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from src.errors import foreign_file
from src.io import write_atomically

VOUCHING = frozenset({"beegfs", "ceph", "ext2", "ext3", "ext4", "f2fs", "lustre", "nfs", "nfs4", "tmpfs", "xfs", "zfs"})
"""File systems that date every change of a file by their own clock. Others (FAT, squashfs, FUSE) may derive that date."""
SETTLED_NS = 2 * 10**9
"""A file that changed more recently may change again under the same date, so its digest is not kept."""

StatedFile = tuple[Path, os.stat_result]


def content_digest_of(content: bytes) -> str:
    """The digest by which a file's content is known."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def file_digests(tree: Path, files: Sequence[StatedFile], folders: Sequence[Path], key: str) -> list[str]:
    """The digest of every file below `tree`.

    Args:
        tree: The folder whose index is used.
        files: Paths, each with its status.
        folders: Where the index may lie; the first that can be written gets it.
        key: The setting that names the tree, for errors.
    """
    name = f"files-{hashlib.blake2b(os.fsencode(os.path.realpath(tree)), digest_size=16).hexdigest()}.json"
    vouched = {device: _vouches(device) for device in {status.st_dev for _, status in files}}
    known = _read(folder / name for folder in folders) if any(vouched.values()) else {}
    kept: dict[str, str] = {}
    found = []
    for path, status in files:
        address = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
        digest = known.get(address) if vouched[status.st_dev] else None
        if digest is None:
            started = time.time_ns()
            with foreign_file(key, str(tree), path, "make it readable or remove it"):
                digest = content_digest_of(path.read_bytes())
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


def _read(candidates: Iterable[Path]) -> dict[str, str]:
    for path in candidates:
        with suppress(OSError, ValueError):
            content = json.loads(path.read_text())
            if isinstance(content, dict):
                return content
    return {}


def _vouches(device: int) -> bool:
    """Whether a mounted file system keeps change times, and is no read-only image, in which any date can be written."""
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            mount, _, system = line.partition(" - ")
            if mount.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                kind, _, options = system.split(" ", 2)
                return kind in VOUCHING and "ro" not in options.split(",")
    return False
