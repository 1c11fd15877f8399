"""Networks without memory: shapes alone, on torch's meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules built inside have shapes but no weights (move them to "meta" after), and draw no random numbers."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _NumbersOnHost():
        yield


class _NumbersOnHost(TorchFunctionMode):
    """Keeps tensors of given numbers on the CPU: RegNet reads its widths and depths from them while it is built."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in (torch.arange, torch.linspace, torch.tensor):
            options.setdefault("device", "cpu")
        return func(*args, **options)
