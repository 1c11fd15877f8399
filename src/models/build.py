"""From an architecture to a network with its initial weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from src.models.architecture import Architecture
from src.models.meta import without_memory
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

    The initial weights depend only on `arch`, the shapes and the generator (seed, init, *address); `address` names further
    draws of the same seed. They are drawn in float32 whatever the `dtype`, so every precision starts at the same point.
    Changes no random state of the process. Raises ConfigError like `Architecture.validate`.
    """
    arch.validate(input_shape, n_outputs)
    with _drawing(derive(seed, "init", *address)):
        model = arch.network(tuple(input_shape), n_outputs)
    return model.to(dtype)


def build_meta_model(arch: Architecture, input_shape: Sequence[int], n_outputs: int) -> nn.Module:
    """The same network without memory or weights, to count and inspect. Raises ConfigError like `validate`."""
    arch.validate(input_shape, n_outputs)
    with without_memory():
        model = arch.network(tuple(input_shape), n_outputs)
    return model.to("meta")


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Seed the CPU's generator for float32 draws inside; restore dtype and random state after."""
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
            yield
    finally:
        torch.set_default_dtype(default_dtype)
