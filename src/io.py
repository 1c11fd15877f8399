"""Where the project's files are, writing files atomically, and naming content by its digest."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
CONF_DIR = PROJECT / "conf"
"""The configuration files of the project."""

MAX_NAME = 255
"""Bytes in the name of a file on the usual file systems."""
MAX_OWN_NAME = 200
"""Bytes in a name that is chosen here: further names are made of it."""

NO_LINK = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
"""What link answers on file systems without hard links."""
NO_SYNC = {errno.EINVAL, errno.ENOTSUP}
"""What fsync answers on file systems that cannot sync a folder."""

WRITERS = 4
"""Number of folders written at the same time: a disk syncs several files as fast as one, but threads share the
interpreter. Writing the runs of a cell takes 2.8 ms a run with 3 or 4, 3.2 with 8, 3.5 with 1 (2 cores)."""


class AlreadyWritten(FileExistsError):
    """A file that is written once exists: another process has written it meanwhile."""


def write_atomically(
    path: Path, content: bytes | str, *, durable: bool = True, named: bool = True, mode: int | None = None
) -> None:
    """Write one file; see `write_files`."""
    write_files(path.parent, {path.name: content}, durable=durable, named=named, mode=mode)


def read_text_or(path: Path) -> str:
    """The text of a file, or "" where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def write_files(
    folder: Path,
    files: Mapping[str, bytes | str],
    *,
    durable: bool = True,
    named: bool = True,
    once: bool = False,
    mode: int | None = None,
) -> None:
    """Write temporary files and rename them in order, so that readers never see a partial file, even after a crash.

    The presence of the last file implies that of the others. Creates the folder.

    Args:
        durable: Sync the files to disk before they are renamed; otherwise a power cut, but no kill, can damage them.
        named: Then sync their folder too, and the folders above it that are new; otherwise a power cut can undo the
            renames, which costs nothing where the same command writes the files again.
        once: Raise AlreadyWritten, and leave the last file as it is, if there is one.
        mode: Who may read and write the files, from their first byte on; by default the user's umask decides.
    """
    folder.mkdir(parents=True, exist_ok=True)
    suffix = f"{os.getpid()}.{secrets.token_hex(3)}.tmp"
    scratch = {name: folder / f".{name}.{suffix}" for name in files}
    try:
        for name, content in files.items():
            with scratch[name].open("wb") as file:
                if mode is not None:
                    os.fchmod(file.fileno(), mode)
                file.write(content.encode() if isinstance(content, str) else content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        *others, last = scratch
        for name in others:
            os.replace(scratch[name], folder / name)
        (_rename_once if once else os.replace)(scratch[last], folder / last)
    except BaseException:
        for path in scratch.values():
            path.unlink(missing_ok=True)
        raise
    if durable and named:
        sync_folder(folder)


def _rename_once(source: Path, target: Path) -> None:
    """Rename a file unless there is one of that name, in one step of the file system; some have none for it."""
    try:
        os.link(source, target)
        source.unlink()
    except FileExistsError as error:
        raise AlreadyWritten(*error.args) from error
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        if target.exists():
            raise AlreadyWritten(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.replace(source, target)


_known_on_disk: set[tuple[int, int]] = set()
"""Device and inode of the folders whose names in the folders above them this process has synced."""


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder and, once in each process, its own name and those of the folders above it."""
    folder = folder.absolute()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in NO_SYNC:
                raise
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    inode = (status.st_dev, status.st_ino)
    if inode not in _known_on_disk:
        with suppress(PermissionError):  # a folder above that cannot be listed existed before
            if folder != folder.parent:
                sync_folder(folder.parent)
        _known_on_disk.add(inode)


def file_name(text: str, limit: int = MAX_NAME) -> str:
    """The text as the name of a file or folder of at most `limit` bytes: itself, or cut and completed by its digest."""
    encoded = os.fsencode(text)
    if len(encoded) <= limit and "/" not in text:
        return text
    kept = encoded[: min(limit, MAX_OWN_NAME) - 17].decode(errors="ignore")
    return f"{kept.replace('/', '_')}-{digest(text)}"


def digest(content: object) -> str:
    """16 hexadecimal digits that name a plain JSON value."""
    return bytes_digest(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def bytes_digest(content: bytes, size: int = 8) -> str:
    """2 x `size` hexadecimal digits that name some bytes."""
    return hashlib.blake2b(content, digest_size=size).hexdigest()


def with_checksum(body: Mapping[str, Any]) -> dict[str, Any]:
    """The object as JSON has it, with the digest of its content under `checksum`.

    Raises ValueError for NaN and infinity.
    """
    content: dict[str, Any] = json.loads(json.dumps(body, allow_nan=False))
    return {**content, "checksum": digest(content)}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError if it is damaged: no object, or not that of its `checksum`, if it
    has one.

    Raises OSError if it cannot be read.
    """
    try:
        body = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(body, dict):
        raise ValueError(f"holds a {type(body).__name__}, not an object")
    checksum = body.pop("checksum", None)
    if checksum is not None and checksum != digest(body):
        raise ValueError("its content does not match its checksum")
    return body


def read_json_or(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file; {} where there is none, or a damaged one that is about to be written again."""
    try:
        return read_json(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def inside(folder: Path, name: str) -> Path:
    """The file `name` of a folder. Raises ValueError if it lies elsewhere: a shared folder may name no other."""
    path = folder / name
    if os.path.basename(name) == name not in ("", "..") and not path.is_symlink():
        return path
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} lies outside of {folder}")
    return path
