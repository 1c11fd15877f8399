"""From an architecture to a network: with its initial weights, or without memory on torch's meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from src.models.architecture import Architecture
from src.regimes.checkpoint import read_backbone
from src.seeds import derive


def build_model(
    arch: Architecture,
    input_shape: Sequence[int],
    n_outputs: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
    *,
    address: Sequence[object] = (),
) -> nn.Module:
    """The network of `arch` on the CPU: samples [n, *input_shape] to outputs [n, n_outputs].

    The initial weights depend only on `arch`, the shapes and the generator (seed, init, *address); `address` names
    further draws of the same seed, which ignore `arch.weights`. They are drawn in float32 whatever the `dtype`, so
    every precision starts at the same point. Changes no random state of the process. Raises ConfigError like
    `Architecture.validate`.
    """
    arch.validate(input_shape, n_outputs)
    with drawing(derive(seed, "init", *address)):
        model = arch.network(tuple(input_shape), n_outputs)
    if arch.weights is not None and not address:
        model.load_state_dict(read_backbone(arch.weights, model.state_dict(), n_outputs, "arch.weights"))
    return model.to(dtype)


def build_meta_model(arch: Architecture, input_shape: Sequence[int], n_outputs: int) -> nn.Module:
    """The same network without memory or weights, to count and inspect. Raises ConfigError like `validate`."""
    arch.validate(input_shape, n_outputs)
    with without_memory():
        model = arch.network(tuple(input_shape), n_outputs)
    return model.to("meta")


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Seed the CPU's generator for float32 draws inside; restore dtype and random state after."""
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
            yield
    finally:
        torch.set_default_dtype(default_dtype)


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
