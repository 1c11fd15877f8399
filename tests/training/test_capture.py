"""`CudaCapture` on a device that does not exist: torch's functions for streams and graphs are replaced by notes of their use."""

from __future__ import annotations

import dataclasses
import gc
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from benchmarks import raw_loops
from src.training import replicas
from src.training.graph import capture as capture_module
from src.training.graph import choice, updates
from src.training.graph.capture import CudaCapture, RecordingError, recorded
from tests.training.cells import differences, executed, tiny

DEVICE = torch.device("cuda", 0)


class Stream:
    def __init__(self, device: object = None) -> None:
        self.waited_for: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited_for.append(other)


class Graph:
    """A recording; the pool that it shares, and whether it was ended well."""

    def __init__(self) -> None:
        self.pool: object = None
        self.is_whole = False

    def reset(self) -> None:
        cuda = FAKE[0]
        if cuda.ends_failed:  # torch 2.12
            if self.pool in cuda.underway:
                cuda.underway.remove(self.pool)
                cuda.users[self.pool] -= 1
            cuda.generator_records = False

    def replay(self) -> None:
        FAKE[0].n_replays += 1

    def __del__(self) -> None:
        if self.is_whole:
            FAKE[0].users[self.pool] -= 1


FAKE: list[Cuda] = []
INVALID = "CUDA error: operation failed due to a previous error during capture"


class Cuda:
    """The current stream, the streams that take part in a recording, and what a recording leaves where it fails.

    `fails_at`: the next recording fails where it begins, at its end, or after it. `ends_failed`: as torch 2.12 and later do.
    """

    def __init__(self) -> None:
        self.current, self.recorded = Stream(), set[Stream]()
        self.mode: object = 0
        self.fails_at = ""
        self.ends_failed = self.is_broken = self.generator_records = False
        self.underway: list[object] = []
        self.users: Counter[object] = Counter()
        self.n_replays = 0
        self.synchronized: list[Stream] = []

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph: Graph, pool: object = None, stream: Stream | None = None) -> Iterator[None]:
        """As in torch 2.11: where it fails it keeps its stream, and its allocator and generator wait for the end."""
        self.empty_cache()
        fails_at, self.fails_at = self.fails_at, ""
        stream = stream or Stream()
        before, self.current = self.current, stream
        graph.pool = pool or object()
        assert graph.pool not in self.underway
        self.underway.append(graph.pool)
        self.users[graph.pool] += 1
        if fails_at == "begin":
            raise RuntimeError("CUDA error: operation not permitted")
        self.recorded, self.generator_records = {stream}, True
        try:
            yield
        finally:
            unjoined = self.recorded - {stream, *stream.waited_for}
            self.recorded = set()
            if unjoined or fails_at == "end":
                raise RuntimeError(INVALID)
            self.underway.remove(graph.pool)
            self.generator_records, graph.is_whole = False, True
            if fails_at == "instantiate":
                raise RuntimeError("CUDA error: out of memory")
            self.current = before

    def empty_cache(self) -> None:
        if self.underway or self.is_broken:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    def end_allocate(self, index: int, pool: object) -> None:
        assert index == 0
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def release_pool(self, index: int, pool: object) -> None:
        self.users[pool] -= 1
        assert self.users[pool] >= 0

    def check_sound(self) -> None:
        """Nothing waits for the end of a recording, and no memory is kept for one that failed."""
        gc.collect()
        self.empty_cache()
        assert not self.generator_records
        assert not self.underway
        assert not +self.users


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    fake = Cuda()
    FAKE[:] = [fake]
    replaced = {
        "Stream": Stream,
        "CUDAGraph": Graph,
        "stream": fake.stream,
        "graph": fake.graph,
        "graph_pool_handle": object,
        "synchronize": lambda *_: fake.synchronized.append(fake.current),
        "empty_cache": fake.empty_cache,
        "current_stream": lambda *_: fake.current,
        "is_current_stream_capturing": lambda: fake.current in fake.recorded,
        "get_sync_debug_mode": lambda: fake.mode,
        "set_sync_debug_mode": lambda mode: setattr(fake, "mode", mode),
    }
    for name, function in replaced.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", fake.end_allocate, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", fake.release_pool, raising=False)
    caches = replicas._streams, capture_module._capture_stream
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


@pytest.mark.parametrize("ends_failed", [False, True])
@pytest.mark.parametrize("fails_at", ["begin", "update", "end", "instantiate"])
@pytest.mark.parametrize("n_before", [0, 1])
def test_a_recording_that_fails_leaves_nothing_behind(
    cuda: Cuda, fails_at: str, n_before: int, ends_failed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    capture, before = CudaCapture(DEVICE), cuda.current
    replays = [recorded(capture, lambda: None) for _ in range(n_before)]
    cuda.fails_at, cuda.ends_failed = fails_at, ends_failed
    update = failing(cuda, capture, ValueError("planted")) if fails_at == "update" else lambda: None
    if fails_at == "update":
        cuda.fails_at = "end"  # what the update did has ended the recording
    match = {
        "begin": "not permitted",
        "update": "ValueError: planted",
        "end": "previous error",
        "instantiate": "memory",
    }
    with pytest.raises(RecordingError, match=match[fails_at]):
        recorded(capture, update)
    assert cuda.current is before
    assert not caplog.records
    assert sum(cuda.users.values()) == n_before
    cuda.empty_cache()
    replays.append(recorded(capture, lambda: None))
    for replay in replays:
        replay()
    assert cuda.n_replays == n_before + 1
    capture.release()
    del replays, replay
    cuda.check_sound()


def test_a_torch_that_cannot_go_on_is_reported(cuda: Cuda, caplog: pytest.LogCaptureFixture) -> None:
    capture, before = CudaCapture(DEVICE), cuda.current

    def update() -> None:
        cuda.is_broken = True
        raise ValueError("planted")

    with pytest.raises(RecordingError, match="planted"):
        recorded(capture, update)
    assert cuda.current is before
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "set trainer.graph=off" in caplog.text


@pytest.mark.parametrize("fails_at", ["begin", "update", "end", "instantiate"])
def test_a_fit_goes_on_after_a_recording_that_fails_in_any_phase(
    cuda: Cuda, fails_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnTheFake(CudaCapture):
        """Uploads need no pinned memory here, and recordings execute nothing, as on a device."""

        def upload(self, tensor: torch.Tensor, target: torch.Tensor) -> None:
            target.copy_(tensor)

        def record(self, update: Callable[[], None]) -> Callable[[], None]:
            if fails_at == "update":
                return super().record(failing(cuda, self, ValueError("planted")))
            cuda.fails_at = fails_at
            return super().record(lambda: None)

    config = tiny("arch=cnn", "arch.widths=[4]", "optimizer.batch_size=15", "stopping.epochs=3", "seeds=2")
    plan, plain = executed(config)
    monkeypatch.setattr(updates, "_verdicts", {})
    monkeypatch.setattr(choice, "capture_on", lambda _: OnTheFake(DEVICE))
    _, execution = executed(config, plan=plan)
    assert not execution.failures
    for key in plan.nodes:
        one, other = plain.results[key], execution.results[key]
        assert other.ledger.capture == "eager"
        assert "could not be recorded" in other.ledger.capture_reason
        assert differences(one, dataclasses.replace(other, ledger=one.ledger)) == []
    cuda.check_sound()


def test_an_update_that_fails_before_a_recording_leaves_no_work_behind(cuda: Cuda) -> None:
    """Halves of a group that runs out of memory reuse its memory at once."""
    capture, before = CudaCapture(DEVICE), cuda.current
    assert capture.warm_up(lambda: None) is None
    assert not cuda.synchronized
    with pytest.raises(torch.OutOfMemoryError):
        capture.warm_up(failing(cuda, capture, torch.OutOfMemoryError("planted")))
    assert cuda.synchronized == [before]


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
