"""A fake list of the driver's GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest


def pretend(n: int, folder: Path, monkeypatch: pytest.MonkeyPatch, *, kind: str = "GPU") -> list[str]:
    """Make the driver list `n` GPUs, or MIG partitions of one; return their UUIDs. Leases are in `folder`."""
    uuids = [f"{kind}-{k:08d}-0000-0000-0000-000000000000" for k in range(n)]
    listed = [["GPU-whole", *uuids]] if kind == "MIG" else [[uuid] for uuid in uuids]
    monkeypatch.setattr("src.sweep.workers.gpus.list_gpus", lambda: listed)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return uuids
