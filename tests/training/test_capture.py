"""`CudaCapture` on a device that does not exist: torch's functions for streams and graphs are replaced by notes of their use."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from benchmarks import raw_loops
from src.training.graph import capture as capture_module
from src.training.graph.capture import CudaCapture, RecordingError, recorded

DEVICE = torch.device("cuda", 0)


class Stream:
    def __init__(self, device: object = None) -> None:
        self.waited_for: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited_for.append(other)


class Cuda:
    """The current stream, the streams that take part in a recording, and how a recording ends."""

    def __init__(self) -> None:
        self.current, self.recorded = Stream(), set[Stream]()
        self.mode: object = 0
        self.leaves_its_stream = self.is_broken = False
        self.n_replays = 0

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph: object, pool: object = None, stream: Stream | None = None) -> Iterator[None]:
        """As in torch 2.11: the end of a recording fails where a branch is not joined, and then keeps its stream."""
        stream = stream or Stream()
        before, self.current, self.recorded = self.current, stream, {stream}
        try:
            yield
        finally:
            unjoined = self.recorded - {stream, *stream.waited_for}
            self.recorded = set()
            if unjoined or self.leaves_its_stream:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
            self.current = before

    def empty_cache(self) -> None:
        if self.is_broken:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    fake = Cuda()

    class Graph:
        def pool(self) -> int:
            return id(self)

        def replay(self) -> None:
            fake.n_replays += 1

    replaced = {
        "Stream": Stream,
        "CUDAGraph": Graph,
        "stream": fake.stream,
        "graph": fake.graph,
        "empty_cache": fake.empty_cache,
        "current_stream": lambda *_: fake.current,
        "is_current_stream_capturing": lambda: fake.current in fake.recorded,
        "get_sync_debug_mode": lambda: fake.mode,
        "set_sync_debug_mode": lambda mode: setattr(fake, "mode", mode),
    }
    for name, function in replaced.items():
        monkeypatch.setattr(torch.cuda, name, function)
    caches = capture_module._streams, capture_module._capture_stream
    for cache in caches:
        cache.cache_clear()
    yield fake
    for cache in caches:
        cache.cache_clear()


def failing(cuda: Cuda, capture: CudaCapture, error: BaseException) -> Callable[[], None]:
    """An update that raises while two models run at the same time."""

    def update() -> None:
        for model in range(2):
            with capture.branches.branch(model):
                cuda.recorded.add(cuda.current)
        raise error

    return update


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("planted"), KeyboardInterrupt()])
def test_a_recording_that_an_exception_ends_joins_its_branches(cuda: Cuda, error: BaseException) -> None:
    """The end of the recording would fail otherwise, and hide that the memory was too small: halves of a group may fit."""
    capture, before = CudaCapture(DEVICE), cuda.current
    with pytest.raises(type(error)):
        recorded(capture, failing(cuda, capture, error))
    assert cuda.current is before
    recorded(capture, lambda: None)()
    assert cuda.n_replays == 1


def test_a_failed_end_keeps_the_first_error_and_restores_the_stream(
    cuda: Cuda, caplog: pytest.LogCaptureFixture
) -> None:
    capture, before = CudaCapture(DEVICE), cuda.current
    cuda.leaves_its_stream = True
    with pytest.raises(RecordingError, match="could not be recorded: ValueError: planted"):
        recorded(capture, failing(cuda, capture, ValueError("planted")))
    with pytest.raises(RecordingError, match="previous error during capture"):
        recorded(capture, lambda: None)
    assert cuda.current is before
    assert not caplog.records
    cuda.is_broken = True
    with pytest.raises(RecordingError):
        recorded(capture, lambda: None)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "set trainer.graph=off" in caplog.text


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("is_benchmark", [False, True])
def test_a_replay_keeps_the_tensors_of_its_update(is_benchmark: bool) -> None:
    """The graph knows their addresses alone; the probe of group sizes and raw loops keep nothing but the replay."""

    def recorded_once() -> tuple[Callable[..., None], weakref.ref[torch.Tensor]]:
        x = torch.zeros(1)

        def update(*_: torch.Tensor) -> None:
            x.add_(1)

        replay = raw_loops._captured(update, x.clone()) if is_benchmark else recorded(CudaCapture(DEVICE), update)
        return replay, weakref.ref(x)

    replay, tensor = recorded_once()
    assert tensor() is not None
    replay(*[torch.zeros(1)] * is_benchmark)
    del replay
    gc.collect()
    assert tensor() is None


def test_a_wait_for_the_device_is_found_before_the_recording(cuda: Cuda) -> None:
    capture, before, used = CudaCapture(DEVICE), cuda.current, list[Stream]()

    def update() -> None:
        assert cuda.mode == "warn"
        used.append(cuda.current)
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("another", stacklevel=1)

    with pytest.warns(UserWarning, match="another") as told:
        line = capture.warm_up(update)
    assert [str(one.message) for one in told] == ["another"]
    assert line is not None
    assert line.startswith(__file__)
    assert cuda.mode == 0
    (stream,) = used
    assert stream is not before
    assert (stream.waited_for, before.waited_for) == ([before], [stream])
    assert cuda.current is before
    assert capture.warm_up(lambda: None) is None
