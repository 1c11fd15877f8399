"""Writing a file is atomic, also on a full disk."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.io import write_atomically


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False) if os.geteuid() == 0 else None
    if mounted is None or mounted.returncode != 0:
        pytest.skip("cannot mount a small disk here: " + (mounted.stderr.strip() if mounted else "not root"))
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_the_previous_file_and_leaves_no_partial_file(small_disk: Path) -> None:
    path = small_disk / "result.json"
    write_atomically(path, b"1" * 1000)
    with pytest.raises(OSError, match="No space") as caught:
        write_atomically(path, b"2" * 1_000_000)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"1" * 1000
    assert list(small_disk.iterdir()) == [path], "the partial file is removed and its space is free"
    write_atomically(path, b"3" * 1000)
    assert path.read_bytes() == b"3" * 1000
