"""What a mask leaves of the machine's GPUs, as CUDA reads it."""

from __future__ import annotations

import pytest

from src.sweep.workers.gpus import Gpu, seen

TWO = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-c3a1cbd2-0000-1111-2222-333344445555)
"""
DIVIDED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 3g.20gb     Device  1: (UUID: MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-c3a1cbd2-0000-1111-2222-333344445555)
"""
FIRST, SECOND = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "GPU-c3a1cbd2-0000-1111-2222-333344445555"
PART = "MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135"


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, [(FIRST, FIRST), (SECOND, SECOND)]),
        ("", []),
        ("1", [("1", SECOND)]),
        ("1,0", [("1", SECOND), ("0", FIRST)]),
        ("GPU-c3a1", [("GPU-c3a1", SECOND)]),
        (f"{SECOND}, 0", [(SECOND, SECOND), ("0", FIRST)]),
        ("0,-1,1", [("0", FIRST)]),
        ("7", []),
        ("GPU-none,0", []),
        ("GPU-", []),
    ],
)
def test_a_mask_limits_and_orders_and_its_names_are_kept(mask: str | None, expected: list[tuple[str, str]]) -> None:
    assert seen(TWO, mask) == tuple(Gpu(*pair) for pair in expected)


def test_a_divided_gpu_is_its_parts() -> None:
    everything = seen(DIVIDED, None)
    assert [gpu.uuid[:7] for gpu in everything] == ["MIG-c6d", "MIG-0c7", "GPU-c3a"]
    assert [gpu.is_part for gpu in everything] == [True, True, False]
    assert seen(DIVIDED, PART) == (Gpu(PART, PART),)


def test_without_a_listing_there_is_nothing() -> None:
    assert seen("", None) == seen("No devices found.", "0") == ()
