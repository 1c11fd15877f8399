"""The GPUs that a mask (CUDA_VISIBLE_DEVICES) selects, by CUDA's rules."""

from __future__ import annotations

import sys

import pytest

from src.sweep.workers.gpus import Gpu, apply_mask, list_gpus

FIRST, SECOND = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "GPU-c3a1cbd2-0000-1111-2222-333344445555"
PARTS = ["MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135"]
TWO, DIVIDED = [[FIRST], [SECOND]], [[FIRST, *PARTS], [SECOND]]


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
    assert apply_mask(TWO, mask) == tuple(Gpu(*pair) for pair in expected)


def test_a_divided_gpu_is_its_parts() -> None:
    everything = apply_mask(DIVIDED, None)
    assert [gpu.uuid[:7] for gpu in everything] == ["MIG-c6d", "MIG-0c7", "GPU-c3a"]
    assert [gpu.is_partition for gpu in everything] == [True, True, False]
    assert apply_mask(DIVIDED, PARTS[1]) == (Gpu(PARTS[1], PARTS[1]),)


class Driver:
    """NVML of a machine with a divided GPU and a whole one."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    class NVMLError_NotFound(NVMLError):
        pass

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> list[str]:
        return DIVIDED[index]

    def nvmlDeviceGetUUID(self, handle: list[str] | str) -> str:
        return handle if isinstance(handle, str) else handle[0]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: list[str]) -> int:
        if len(handle) == 1:
            raise self.NVMLError_NotSupported
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: list[str], index: int) -> str:
        if index + 1 >= len(handle):
            raise self.NVMLError_NotFound
        return handle[index + 1]


def test_the_drivers_list_has_gpus_and_their_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver())
    assert list_gpus() == DIVIDED


def test_a_machine_without_a_gpu_has_an_empty_list() -> None:
    assert apply_mask([], None) == apply_mask([], "0") == ()
