"""Archives that declare or unpack to more than memory holds, and tensors that hold no plain numbers: refused in one line."""

from __future__ import annotations

import io
import os
import resource
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.data.sources.arrays import ArraysData
from src.environment import memory_available
from src.errors import ConfigError
from src.regimes import checkpoint
from tests.data.samples import read_source

MAX_MIB = 100
"""What refusing any of these files may add to the memory of a process."""


def sparse_file(file: Path) -> None:
    with file.open("wb") as hole:
        hole.truncate(2**42)


def npz(
    file: Path, *, shape: tuple[int, ...] = (4, 4), content: bytes = b"", compression: int = zipfile.ZIP_STORED
) -> None:
    """An archive whose `x` declares a shape."""
    header, labels = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    np.save(labels, np.arange(4) % 2)
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("x.npy", header.getvalue() + content)
        archive.writestr("y.npy", labels.getvalue())


def declared_size(file: Path) -> None:
    """An archive whose directory says that `x` unpacks to 4 GiB less one byte."""
    npz(file, content=bytes(16))
    content = file.read_bytes()
    start = content.index(b"PK\x01\x02")
    file.write_bytes(content[: start + 24] + struct.pack("<I", 2**32 - 2) + content[start + 28 :])


ARRAYS: dict[str, Callable[[Path], Any]] = {
    "terabytes": lambda file: npz(file, shape=(10**12, 4)),
    "negative": lambda file: npz(file, shape=(-1, 4)),
    "short": lambda file: npz(file, content=bytes(10)),
    "bomb": lambda file: npz(file, shape=(4, 2**24), content=bytes(2**26), compression=zipfile.ZIP_DEFLATED),
    "declared": declared_size,
    "sparse file": sparse_file,
    "fifo": os.mkfifo,
}


def saved(tensor: Callable[[], torch.Tensor], **options: Any) -> Callable[[Path], None]:
    def save(file: Path) -> None:
        with warnings.catch_warnings(action="ignore"):  # of kinds of tensors that are to go
            torch.save({"w": tensor()}, file, **options)

    return save


def legacy_terabytes(file: Path) -> None:
    """torch's format before archives, whose storage declares 4 TB."""
    saved(lambda: torch.ones(3, 4), _use_new_zipfile_serialization=False)(file)
    file.write_bytes(file.read_bytes().replace(struct.pack("<q", 12), struct.pack("<q", 10**12)))


def deflated(file: Path) -> None:
    """An archive that unpacks to 16 MiB."""
    saved(lambda: torch.zeros(2**22))(file)
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as stored, zipfile.ZipFile(file, "w", 8) as archive:
        for name in stored.namelist():
            archive.writestr(name, stored.read(name))


def safetensors(header: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(header)


TERABYTES = b'{"w":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
WEIGHTS: dict[str, Callable[[Path], object]] = {
    "expanded.pt": saved(lambda: torch.zeros(1).expand(10**6, 10**6)),
    "meta.pt": saved(lambda: torch.empty(10**6, 10**7, device="meta")),
    "sparse.pt": saved(lambda: torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (10**6, 10**7))),
    "csr.pt": saved(lambda: torch.eye(3).to_sparse_csr()),
    "quantised.pt": saved(lambda: torch.quantize_per_tensor(torch.ones(3, 4), 0.1, 0, torch.quint8)),
    "complex.pt": saved(lambda: torch.ones(3, 4, dtype=torch.complex64)),
    "nested.pt": saved(lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
    "legacy.pt": legacy_terabytes,
    "deflated.pt": deflated,
    "sparse file.pt": sparse_file,
    "fifo.pt": os.mkfifo,
    "terabytes.safetensors": safetensors(struct.pack("<Q", len(TERABYTES)) + TERABYTES),
    "header.safetensors": safetensors(struct.pack("<Q", 2**62) + b"{}"),
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with little free memory, so that an archive of some megabytes is too large."""
    monkeypatch.setattr("src.environment.memory_available", lambda: 2**25)


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.usefixtures("small_machine")
def test_archive_of_arrays_that_memory_cannot_hold_is_refused(kind: str, tmp_path: Path) -> None:
    ARRAYS[kind](tmp_path / "a.npz")
    data = ArraysData(
        name="arrays", root=str(tmp_path), path="a.npz", path2=None, image_size=None, x_key="x", y_key="y"
    )
    before = peak_mib()
    with pytest.raises(
        ConfigError, match=r"^data\.path=a\.npz: cannot read .*a\.npz \(.+\); write it with numpy"
    ) as caught:
        read_source(data)
    assert "\n" not in str(caught.value)
    assert peak_mib() < before + MAX_MIB


@pytest.mark.parametrize("kind", WEIGHTS)
def test_checkpoint_without_plain_numbers_is_refused(kind: str, tmp_path: Path) -> None:
    WEIGHTS[kind](tmp_path / kind)
    before = peak_mib()
    with pytest.raises(ConfigError, match=r"^checkpoint=/.*; (save it with torch\.save|give the path of a)") as caught:
        checkpoint.read(checkpoint.pin(str(tmp_path / kind), "checkpoint"), {"w": torch.zeros(3, 4)})
    assert "\n" not in str(caught.value)
    assert peak_mib() < before + MAX_MIB


@pytest.mark.parametrize(
    ("cgroup", "files", "left"),
    [
        ("0::/job/step\n", {"job/memory.max": 900, "job/memory.current": 300, "job/step/memory.max": "max"}, 600),
        ("0::/job/step\n", {"job/step/memory.max": 900, "job/step/memory.current": 1000}, 50),
        ("0::/\n", {"memory.max": 700, "memory.current": 100}, 600),
        ("4:cpu:/a\n5:memory:/a\n", {"memory/a/memory.limit_in_bytes": 500, "memory/a/memory.usage_in_bytes": 90}, 410),
        ("5:memory:/of/the/host\n", {"memory/memory.limit_in_bytes": 500, "memory/memory.usage_in_bytes": 90}, 410),
        ("0::/\n", {}, 1000 * 1024),
        ("", {}, 1000 * 1024),
    ],
)
def test_the_memory_of_a_job_is_what_its_control_group_leaves(
    tmp_path: Path, cgroup: str, files: dict[str, object], left: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 2000 kB\nMemAvailable: 1000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, value in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
        cached = 150 if "step/" in name else 0
        (path.parent / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")
    assert memory_available(tmp_path) == left
