"""A machine with GPUs, as far as its driver's listing goes."""

from __future__ import annotations

from pathlib import Path

import pytest


def pretend(n: int, folder: Path, monkeypatch: pytest.MonkeyPatch, *, kind: str = "GPU") -> list[str]:
    """Puts an ``nvidia-smi`` that lists `n` GPUs first in PATH; returns their UUIDs. Leases go to `folder` as well."""
    uuids = [f"{kind}-{k:08d}-0000-0000-0000-000000000000" for k in range(n)]
    lines = "\n".join(f"{kind} {k}: NVIDIA Pretended (UUID: {uuid})" for k, uuid in enumerate(uuids))
    binaries = folder / "bin"
    binaries.mkdir()
    (binaries / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    (binaries / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(binaries), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return uuids
