"""The GPUs of this machine that a process may use: those of NVIDIA's driver, limited by CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

MASK = "CUDA_VISIBLE_DEVICES"
MPS_PIPES, DEFAULT_MPS_PIPES = "CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"
"""Where the daemon of CUDA MPS and its clients meet."""


class Gpu(NamedTuple):
    """A GPU or a MIG partition of one. `visible_as`: its name in CUDA_VISIBLE_DEVICES, as the user wrote it."""

    visible_as: str
    uuid: str

    @property
    def is_partition(self) -> bool:
        """Whether it is a MIG partition: a process can use only one of them."""
        return self.uuid.startswith("MIG")


def visible_gpus() -> tuple[Gpu, ...]:
    """The GPUs that processes started from here may use; none without a driver."""
    return apply_mask(list_gpus(), os.environ.get(MASK))


def mps_serves() -> bool:
    """Whether the kernels of several processes started from here run on a GPU at once: by the daemon's pipe."""
    return (Path(os.environ.get(MPS_PIPES) or DEFAULT_MPS_PIPES) / "control").exists()


def list_gpus() -> list[list[str]]:
    """For every GPU its UUID, followed by the UUIDs of its MIG partitions."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, or no GPU
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(k) for k in range(pynvml.nvmlDeviceGetCount())]
        return [[pynvml.nvmlDeviceGetUUID(handle), *_partitions(handle)] for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def _partitions(handle: object) -> Iterator[str]:
    import pynvml

    try:
        n = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except pynvml.NVMLError_NotSupported:
        n = 0
    for index in range(n):
        try:
            yield pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
        except pynvml.NVMLError_NotFound:
            continue


def apply_mask(gpus: Sequence[Sequence[str]], mask: str | None) -> tuple[Gpu, ...]:
    """The GPUs that `mask` leaves, in its order; all without one. `gpus`: see `list_gpus`.

    As CUDA reads a mask: an index counts whole GPUs, a UUID may be shortened, and the first entry that names no GPU
    ends the list. A GPU with MIG partitions is its partitions.
    """
    if mask is None:
        return tuple(Gpu(uuid, uuid) for whole, *partitions in gpus for uuid in partitions or [whole])
    uuids = [uuid for gpu in gpus for uuid in gpu]
    chosen: list[Gpu] = []
    for entry in filter(None, (part.strip() for part in mask.split(","))):
        if entry.isdigit():
            matching = [gpu[0] for gpu in gpus[int(entry) : int(entry) + 1]]
        else:
            matching = [uuid for uuid in uuids if uuid.startswith(entry)]
        if len(matching) != 1 or matching[0] in (gpu.uuid for gpu in chosen):
            break
        chosen.append(Gpu(entry, matching[0]))
    return tuple(chosen)
