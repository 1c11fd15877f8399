"""The GPUs of this machine that a process may use, and their leases.

They are those of NVIDIA's driver, limited by CUDA_VISIBLE_DEVICES. The leases are one lock file for each GPU and slot,
shared by all sweeps of a user. The operating system releases the locks of a process when it dies, however it dies.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from src.config import TrainerConfig
from src.errors import ConfigError, Interrupted
from src.locks import Notice, holder, sign, try_lock
from src.sweep.processes import is_locked

MASK = "CUDA_VISIBLE_DEVICES"
MPS_PIPES, DEFAULT_MPS_PIPES = "CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"
"""Where the daemon of CUDA MPS and its clients meet."""

POLL_SECONDS = 0.2

MIN_SLOTS = 16
"""Slots of a GPU that a lease of the whole GPU locks; more if the trainer has more."""


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


@dataclass(frozen=True)
class Request:
    """`n` of the GPUs `gpus` (UUIDs), and on each of them any of `slots` slots, or all of them if `whole`."""

    gpus: Sequence[str]
    n: int
    slots: int
    whole: bool


class Devices:
    """The GPUs that this worker leases for each cell.

    A process that has used a GPU cannot exchange it for another one, so it leases the same one again. If others wait
    for it, they come first: `free` is then called, which releases this process's memory there. Nothing is leased on a
    machine without GPUs or for a trainer that wants none.
    """

    def __init__(self, free: Callable[[], None]) -> None:
        self._free = free
        self._gpus = {gpu.uuid: gpu for gpu in visible_gpus()}
        self._folder = Path(tempfile.gettempdir()) / f"gpu-leases-{os.getuid()}"
        self._held = ExitStack()
        self._used: str | None = None
        self.shared = False
        """Whether other workers may use the leased GPU."""

    def lease(self, trainer: TrainerConfig, *, whole: bool, stop: Callable[[], bool]) -> str | None:
        """Leases GPUs for a cell and returns them as a value of CUDA_VISIBLE_DEVICES; None where the cell needs none.

        `whole`: the GPU without other workers, whatever the trainer's slots. Waits until GPUs are free. Raises
        Interrupted when `stop` returns True meanwhile, and ConfigError where this machine has too few.
        """
        self._held.close()
        if trainer.name == "cpu" or not self._gpus:
            return None
        request = self._request(trainer, whole)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        gpus = self._try(request)
        if not gpus:
            if self._used is not None:
                self._free()
            gpus = self._wait(request, stop)
        self.shared = not request.whole
        if trainer.devices == 1:
            (self._used,) = gpus
        return ",".join(self._gpus[uuid].visible_as for uuid in gpus)

    def release(self) -> None:
        """Releases the leased GPUs, if any."""
        if self._used is not None:
            self._free()
        self._held.close()

    def _request(self, trainer: TrainerConfig, whole: bool) -> Request:
        if trainer.devices == 1:
            gpus = (self._used,) if self._used is not None else tuple(self._gpus)
            return Request(gpus, 1, trainer.slots, whole or trainer.slots == 1)
        gpus = tuple(gpu.uuid for gpu in self._gpus.values() if not gpu.is_partition)
        if trainer.devices > len(gpus):
            problem = f"only {len(gpus)} whole GPUs are visible here ({MASK} limits them); lower it"
            raise ConfigError("trainer.devices", trainer.devices, problem)
        return Request(gpus, trainer.devices, trainer.slots, whole=True)

    def _try(self, request: Request) -> list[str]:
        """Takes what is free now, the GPUs with the most free slots first; all or none."""
        with ExitStack() as taken:
            gpus: list[str] = []
            for slot in range(1 if request.whole else request.slots):
                for gpu in request.gpus:
                    with ExitStack() as turn:
                        if self._lock(gpu, "turn", turn) and self._lock_slots(gpu, request, [slot], taken):
                            gpus.append(gpu)
                    if len(gpus) == request.n:
                        self._held = taken.pop_all()
                        return gpus
        return []

    def _wait(self, request: Request, stop: Callable[[], bool]) -> list[str]:
        """Wait for GPUs. The waiting process holds its turn at a GPU, so that no other process leases it meanwhile.

        All processes wait in the order of the UUIDs, so no two wait for each other.
        """
        start = os.getpid() % len(request.gpus)
        gpus = sorted([*request.gpus[start:], *request.gpus[:start]][: request.n])
        with ExitStack() as taken:
            for gpu in gpus:
                notice = Notice(f"GPU {gpu}", functools.partial(self._holders, gpu))
                with ExitStack() as turn:
                    while not self._lock(gpu, "turn", turn):
                        _pause(stop, notice)
                    while not self._lock_slots(gpu, request, range(request.slots), taken):
                        _pause(stop, notice)
            self._held = taken.pop_all()
        return gpus

    def _lock_slots(self, gpu: str, request: Request, slots: Iterable[int], taken: ExitStack) -> bool:
        """Adds the locks of any of `slots`, or of the whole GPU, to `taken`; False, and none, if they are not free."""
        with ExitStack() as mine:
            if request.whole:
                locked = all(self._lock(gpu, slot, mine) for slot in range(max(MIN_SLOTS, request.slots)))
            else:
                locked = any(self._lock(gpu, slot, mine) for slot in slots)
            if locked:
                taken.enter_context(mine.pop_all())
        return locked

    def _lock(self, gpu: str, part: object, stack: ExitStack) -> bool:
        """Adds the lock of a part of a GPU to `stack`; False if another process holds it."""
        lock = FileLock(self._folder / f"{gpu}.{part}.lock")
        if not try_lock(lock):
            return False
        sign(lock)
        stack.callback(lock.release)
        return True

    def _holders(self, gpu: str) -> str:
        """The processes that lease the GPU, or wait for it before this one."""
        held = [path for path in sorted(self._folder.glob(f"{gpu}.*.lock")) if is_locked(path)]
        others = [name for name in map(holder, held) if not name.startswith(f"process {os.getpid()} ")]
        return ", ".join(dict.fromkeys(others)) or "a process that has just ended"


def _pause(stop: Callable[[], bool], notice: Notice) -> None:
    if stop() or notice.after_waiting():
        raise Interrupted
    time.sleep(POLL_SECONDS)
