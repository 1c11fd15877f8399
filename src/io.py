"""Where the project's files are, writing files atomically, and naming content by its digest."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path

CONF_DIR = Path(__file__).resolve().parent.parent / "conf"
"""The configuration files of the project."""


def write_atomically(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    """Write a temporary file and rename it, so that readers never see a partial file, even after a crash.

    Creates the folder. `durable`: sync to disk before returning; otherwise a power failure, but no kill, can lose the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}.tmp")
    try:
        with scratch.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def digest(content: object) -> str:
    """16 hexadecimal digits that name a plain JSON value."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
