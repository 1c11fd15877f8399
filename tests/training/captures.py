"""Captures for a CPU: a recording is a function that every replay calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class NoBranches:
    """One model after the other; counts forks and joins."""

    def __init__(self) -> None:
        self.forked, self.n_joins = 0, 0

    def branch(self, model: int) -> AbstractContextManager[None]:
        self.forked += 1
        return nullcontext()

    def join(self) -> None:
        self.n_joins += 1


class OnTheDevice(TorchFunctionMode):
    """Refuses what a recording cannot hold: numbers copied from the host, and values read from the device.

    The optimizers' forms for a CPU read their rate and step count, those for a GPU do not.
    """

    REFUSED = (torch.tensor, torch.from_numpy, torch.nonzero, Tensor.nonzero, Tensor.item, Tensor.tolist, Tensor.cpu)
    REFUSED += (Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.numpy)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in self.REFUSED:
            frame = sys._getframe()
            while frame is not None and "/torch/optim/" not in frame.f_code.co_filename:
                frame = frame.f_back  # type: ignore[assignment]
            assert frame is not None, f"{func} in a recording"
        return func(*args, **(kwargs or {}))


class CalledAgain:
    """A capture whose replay calls the recorded function, and refuses what a recording cannot hold."""

    waits_at: str | None = None

    def __init__(self) -> None:
        self.branches, self.n_recorded, self.n_released = NoBranches(), 0, 0

    def warm_up(self, update: Callable[[], None]) -> str | None:
        update()
        return self.waits_at

    def record(self, update: Callable[[], None]) -> Callable[[], None]:
        self.n_recorded += 1

        def replay() -> None:
            with OnTheDevice():
                update()

        return replay

    def upload(self, tensor: Tensor, target: Tensor) -> None:
        target.copy_(tensor)

    def release(self) -> None:
        self.n_released += 1
