"""The updates of a group as a CUDA graph: recorded once for every batch size, then replayed for whole chunks.

An update reads its rows, labels and learning rate from buffers at a cursor, both on the device, and moves the cursor on; so a
chunk of updates is one upload and a launch for each update. The first updates of a fit run eagerly, which makes optimizer
state and chooses algorithms. The first replays of a kind in a process are compared with eager updates from the same state.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from src.data.augment import augmented
from src.training.feed import IndexChunk, ResidentFeed
from src.training.graph.capture import CudaCapture, RecordingError, recorded
from src.training.graph.choice import TOO_SHORT, log_once
from src.training.module import GroupModule
from src.training.replicas import LoopReplicas

WARM_UP = 3
"""Updates of a batch size before it is recorded, two at least: the first ones place tensors, the last one is a rehearsal."""
CHECKED = 2
"""Updates that are compared, at least: one that does not read the weights of the one before it shows in the second."""
TOLERANCE = {"32": 1e-4, "tf32": 5e-3, "bf16-mixed": 2e-2}
"""By precision, the largest norm of the difference between replayed and eager state, relative to that of its change.

Equal kernels give equal bits; a graph may choose another algorithm, whose rounding is that of the precision.
"""
_n_compared: Counter[str] = Counter()
"""Updates of a kind that were compared in this process."""
_verdicts: dict[str, str | None] = {}
"""What the comparison of a kind of update has shown in this process: None, or why it must be eager."""


@dataclass(eq=False)
class _Buffers:
    """A chunk of batches of one size on the device."""

    tensors: Sequence[Tensor]
    """See `IndexChunk`."""
    losses: Tensor | None = None
    """Each model's loss of every replayed update [U, R]; made before the recording."""

    @property
    def batch_size(self) -> int:
        return self.tensors[0].shape[2]


class GraphedUpdates:
    """Trains index chunks of one fit.

    `kind`: names all that decides which kernels an update launches, besides batch size and stopped models.
    """

    def __init__(
        self, module: GroupModule, feed: ResidentFeed, capture: CudaCapture, precision: str, kind: str
    ) -> None:
        self._module, self._feed, self._capture, self._kind = module, feed, capture, kind
        self._tolerance = TOLERANCE[precision]
        self._buffers: dict[int, _Buffers] = {}
        self._n_eager: Counter[int] = Counter()
        self._replays: dict[int, Callable[[], None]] = {}
        self._recorded_for = list(module.replicas.active)
        device, size = feed.device.torch_device, feed.chunk_size(0)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=device)
        self._steps = torch.arange(size, device=device).unsqueeze(1)
        self._rates = torch.zeros(size, dtype=torch.float64, device=device)
        module.eager_reason = TOO_SHORT
        self._failure: str | None = None

    def train(self, chunk: IndexChunk) -> None:
        """All updates of the chunk."""
        buffers, k = self._uploaded(chunk), 0
        self._module.replicas.active_mask(self._steps.device)  # copied there now, which a recording cannot do
        while k < len(chunk):
            replay, n = self._replay_of(buffers), len(chunk) - k
            if self._failure is not None:
                self._eagerly(buffers, k)
                n = 1
            elif replay is None:
                self._warm_up(buffers, k)
                n = 1
            elif self._name(buffers) not in _verdicts:
                n = min(CHECKED, n)
                self._compare(buffers, k, n, replay)
            else:
                self._module.update_losses += self._replay(buffers, k, n, replay).unbind()
                self._module.n_done += n
                self._module.eager_reason = None
            k += n

    def release(self) -> None:
        """Frees the memory of buffers and graphs, which a cycle of references would keep for a while."""
        self._replays.clear()
        self._buffers.clear()
        self._capture.release()
        self._module.zero_grad(set_to_none=True)

    @contextmanager
    def _side_by_side(self) -> Iterator[None]:
        """Lets the models of a loop run at the same time."""
        replicas = self._module.replicas
        if isinstance(replicas, LoopReplicas):
            replicas.branches = self._capture.branches
        try:
            yield
        finally:
            if isinstance(replicas, LoopReplicas):
                replicas.branches = None

    def _uploaded(self, chunk: IndexChunk) -> _Buffers:
        n = chunk.tensors[0].shape[2]
        if n not in self._buffers:
            shapes = [(self._feed.chunk_size(n), *t.shape[1:]) for t in chunk.tensors]
            typed = zip(shapes, chunk.tensors, strict=True)
            self._buffers[n] = _Buffers([self._steps.new_zeros(shape, dtype=t.dtype) for shape, t in typed])
        buffers, first = self._buffers[n], self._module.n_done
        rates = torch.tensor([self._module.rate(first + k) for k in range(len(chunk))], dtype=torch.float64)
        for tensor, target in zip((*chunk.tensors, rates), (*buffers.tensors, self._rates), strict=True):
            self._capture.upload(tensor, target[: len(chunk)])
        return buffers

    # ------------------------------------------------------------------------------------------------ one update

    def _inputs(self, rows: Tensor, chosen: Sequence[Tensor]) -> Tensor:
        x = self._feed.table.take(rows)
        return augmented(x, chosen[0], self._feed.augment) if chosen else x

    def _eagerly(self, buffers: _Buffers, k: int) -> None:
        """The k-th update of the chunk, as without a graph."""
        rows, labels, *chosen = (tensor[k] for tensor in buffers.tensors)
        self._module.update((self._inputs(rows, chosen), labels, buffers.batch_size))
        self._loss_dtype = self._module.update_losses[-1].dtype

    def _update(self, buffers: _Buffers) -> None:
        """The update at the cursor: what is recorded."""
        cursor, kept = self._cursor, buffers.losses
        assert kept is not None
        rows, labels, *chosen = (tensor.index_select(0, cursor).squeeze(0) for tensor in buffers.tensors)
        self._module.capturable_rate.copy_(self._rates.index_select(0, cursor).squeeze(0))
        losses, _ = self._module.descend(self._inputs(rows, chosen), labels, rows.shape[1])
        kept.copy_(torch.where(self._steps == cursor, losses, kept))
        cursor.add_(1)

    def _replay(self, buffers: _Buffers, first: int, n: int, replay: Callable[[], None]) -> Tensor:
        """Updates `first` to `first + n` of the chunk; returns their losses [n, R]."""
        assert buffers.losses is not None
        self._cursor.fill_(first)
        for _ in range(n):
            replay()
        return buffers.losses[first : first + n].clone()

    # ------------------------------------------------------------------------------------------------ recording

    def _warm_up(self, buffers: _Buffers, k: int) -> None:
        """The k-th update of the chunk, before a recording; the last one in the form that is recorded."""
        n, module = buffers.batch_size, self._module
        self._n_eager[n] += 1
        with self._side_by_side():
            if self._n_eager[n] < WARM_UP:
                self._capture.warm_up(partial(self._eagerly, buffers, k))
                return
            shape = (len(self._steps), module.replicas.n)
            buffers.losses = torch.zeros(shape, dtype=self._loss_dtype, device=self._steps.device)
            self._cursor.fill_(k)
            line = self._capture.warm_up(partial(self._update, buffers))
        module.update_losses.append(buffers.losses[k].clone())
        module.n_done += 1
        if line is not None:
            _verdicts[self._name(buffers)] = f"an update waits for the device, at {line}"
            self._give_up(_verdicts[self._name(buffers)])

    def _name(self, buffers: _Buffers) -> str:
        return f"{self._kind}, batches of {buffers.batch_size}, stopped models: {not all(self._recorded_for)}"

    def _replay_of(self, buffers: _Buffers) -> Callable[[], None] | None:
        """The recorded update of this batch size; None while updates are eager."""
        n, module = buffers.batch_size, self._module
        if self._failure is not None or self._n_eager[n] < WARM_UP:
            return None
        if module.replicas.active != self._recorded_for:  # a stopped model launches other kernels, or none
            self._replays.clear()
            self._recorded_for = list(module.replicas.active)
        name = self._name(buffers)
        if _verdicts.get(name) is not None:
            self._give_up(_verdicts[name])
            return None
        if n not in self._replays:
            module.zero_grad(set_to_none=True)  # gradients then lie in the graph's own memory
            try:
                with self._side_by_side():
                    self._replays[n] = recorded(self._capture, partial(self._update, buffers))
            except torch.OutOfMemoryError:
                if module.replicas.n > 1:  # halves of the group may fit
                    raise
                self._give_up("recording an update took more memory than the device has")
            except RecordingError as error:
                _verdicts[name] = str(error)
                self._give_up(_verdicts[name])
        return self._replays.get(n)

    def _give_up(self, reason: str | None) -> None:
        """All further updates of this fit are eager."""
        self._failure = self._module.eager_reason = reason
        self._replays.clear()
        assert reason is not None
        log_once(reason)

    # ------------------------------------------------------------------------------------------------ comparison

    def _compare(self, buffers: _Buffers, k: int, n: int, replay: Callable[[], None]) -> None:
        """Replays n updates, takes them back and runs them eagerly; keeps the eager result, and a verdict for the process."""
        states = dict(self._states())
        before = {key: [tensor.clone() for tensor in tensors] for key, tensors in states.items()}
        losses = self._replay(buffers, k, n, replay)
        replayed = {key: [tensor.clone() for tensor in tensors] for key, tensors in states.items()}
        with torch.no_grad():
            for key, tensors in states.items():
                for tensor, saved in zip(tensors, before[key], strict=True):
                    tensor.copy_(saved)
        for update in range(k, k + n):
            self._eagerly(buffers, update)
        eager = torch.stack(self._module.update_losses[-n:])
        found = {key: _difference(before[key], replayed[key], states[key]) for key in states}
        found["losses"] = _difference([torch.zeros_like(eager)], [losses], [eager])
        if any(math.isnan(value) for value in found.values()):
            return  # both diverged, which shows nothing; the next updates are compared again
        worst, name = max(found, key=lambda key: found[key]), self._name(buffers)
        _n_compared[name] += n
        if found[worst] > self._tolerance:
            off = f"off by {found[worst]:.1e} of their change, more than {self._tolerance:.0e}"
            _verdicts[name] = f"replayed {worst} are {off}"
        elif _n_compared[name] >= CHECKED:
            _verdicts[name] = None

    def _states(self) -> Iterator[tuple[str, list[Tensor]]]:
        """All that an update changes on the device, by kind."""
        replicas = self._module.replicas
        yield "weights", [parameter.detach() for parameter in replicas.parameters()]
        yield "buffers", list(replicas.buffers())
        found: defaultdict[str, list[Tensor]] = defaultdict(list)
        for state in self._module.plain_optimizer().state.values():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    found[f"optimizer {key}"].append(value)
        yield from found.items()


def _difference(before: list[Tensor], replayed: list[Tensor], eager: list[Tensor]) -> float:
    """Norm of (replayed - eager), relative to that of the eager change; infinite if one is not finite, NaN if neither is."""
    if not eager:
        return 0.0
    start, one, other = (torch.cat([t.double().flatten() for t in tensors]) for tensors in (before, replayed, eager))
    finite = [bool(values.isfinite().all()) for values in (one, other)]
    if not all(finite):
        return math.inf if any(finite) else math.nan
    wrong, change = float((one - other).norm()), float((other - start).norm())
    return wrong / change if change else math.inf if wrong else 0.0
