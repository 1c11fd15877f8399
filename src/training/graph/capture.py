"""Recording of device work: a CUDA graph replays in one launch what took a launch for every kernel."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.training.replicas import CudaBranches

log = logging.getLogger(__name__)


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, eq=False)
class _Replay:
    """Executes a recording, and keeps what the update refers to: the graph reads and writes that memory."""

    graph: torch.cuda.CUDAGraph
    update: Callable[[], None]

    def __call__(self) -> None:
        self.graph.replay()


class CudaCapture:
    """`torch.cuda.CUDAGraph`; the graphs of one fit share a memory pool, since they never replay at the same time. Tests on a
    CPU put classes of their own in its place.
    """

    def __init__(self, device: torch.device) -> None:
        self.branches = CudaBranches(device)
        """Where the models of a loop run at the same time."""
        self._device, self._stream = device, _capture_stream(device)
        self._last: torch.cuda.CUDAGraph | None = None
        self._pool: Any = None
        """Where the graphs have their memory."""

    def warm_up(self, update: Callable[[], None]) -> str | None:
        """Runs an update so that allocations and choices of algorithms are made before a recording, on its stream.

        Returns the first line in it that waits for the device, which a recording cannot do; None: no line is known to.
        """
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream), _waits() as found:
                update()
        except BaseException:
            # branches that nothing joins still write statistics, whose memory the caller frees on its own stream
            torch.cuda.synchronize(self._device)
            raise
        current.wait_stream(self._stream)
        return found[0] if found else None

    def record(self, update: Callable[[], None]) -> Callable[[], None]:
        """Records the launches of `update`, without executing them; the returned function executes them.

        Raises what the update raised, not the error that ending such a recording raises in turn; the current stream is
        then the one before.
        """
        graph = torch.cuda.CUDAGraph()
        if self._last is None:  # a pool can be shared only while a graph uses it
            self._pool = torch.cuda.graph_pool_handle()
        cause: BaseException | None = None
        try:
            # the outer context restores the stream, which torch 2.11 does not where a recording fails
            outer = torch.cuda.stream(torch.cuda.current_stream(self._device))
            with outer, torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                try:
                    update()
                except BaseException as error:
                    cause = error
                    self.branches.abandon()
                    raise
        except BaseException as error:
            self._end_failed(graph)
            raise cause or error from None
        finally:
            cause = None  # its traceback holds the memory of the update
        self._last = graph
        return _Replay(graph, update)

    def _end_failed(self, graph: torch.cuda.CUDAGraph) -> None:
        """Lets this process go on after a recording that failed.

        Before 2.12 torch leaves its allocator waiting for the recording's end, so that freeing memory raises, as Lightning
        does at the end of a fit, and the device's generator, so that all later dropout raises.
        """
        graph.reset()
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        with suppress(RuntimeError):  # it is not waiting: the recording had not begun, or this torch has ended it
            torch._C._cuda_endAllocateToPool(index, self._pool)
            torch._C._cuda_releasePool(index, self._pool)
        try:
            torch.cuda.empty_cache()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the graph is empty
                # a recording that ends well ends the generator's, too
                outer = torch.cuda.stream(torch.cuda.current_stream(self._device))
                with outer, torch.cuda.graph(torch.cuda.CUDAGraph(), stream=self._stream):
                    pass
        except RuntimeError as error:
            fix = "this torch cannot go on after a recording that failed; set trainer.graph=off"
            log.error("trainer.graph=auto: %s (%s)", fix, " ".join(str(error).split()))

    def upload(self, tensor: Tensor, target: Tensor) -> None:
        """Copies a tensor from the CPU into one on the device, after the work launched so far.

        Through pinned memory, without waiting; torch keeps that memory until the copy is done.
        """
        target.copy_(tensor.contiguous().pin_memory(), non_blocking=True)

    def release(self) -> None:
        """Drops the last graph, and with it the memory of the pool."""
        self._last = None


@contextmanager
def _waits() -> Iterator[list[str]]:
    """Collects where the work inside waits for the device, as far as torch can tell."""
    found: list[str] = []
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for given in caught:
        text = str(given.message)
        if "synchronizing CUDA operation" in text:
            found.append(f"{given.filename}:{given.lineno}")
        elif not text.startswith("Synchronization debug mode"):  # torch's advice on the mode itself
            warnings.warn_explicit(given.message, given.category, given.filename, given.lineno)


class RecordingError(Exception):
    """An update that cannot be recorded."""


def recorded(capture: CudaCapture, update: Callable[[], None]) -> Callable[[], None]:
    """`capture.record`. Raises RecordingError with the cause, and OutOfMemoryError as it is."""
    try:
        return capture.record(update)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise RecordingError(f"an update could not be recorded: {cause}") from error


def capture_on(device: torch.device) -> CudaCapture | None:
    """The recorder of a device; None where there is none."""
    return CudaCapture(device) if device.type == "cuda" else None
