"""Training cost in floating-point operations."""

from __future__ import annotations

from functools import cache

import torch

from src.models.architecture import Architecture
from src.models.build import build_meta_model


@cache
def training_flops(arch: Architecture, input_shape: tuple[int, ...], n_outputs: int) -> int:
    """Floating-point operations of one forward and backward pass per sample: three times those of the forward pass.

    Counted by torch's FlopCounterMode on the meta device, so nothing is computed: matrix products, convolutions and
    attention, a multiply-add being two operations; activations, normalisation, pooling, the loss and the optimizer are
    left out. The backward pass counts twice the forward one (gradients of inputs and of weights: Kaplan et al. 2020,
    section 2.1) for every regime, frozen layers and the first layer's input included.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, which only those who train have to wait for

    n_samples = 2  # batch normalisation over single pixels refuses a batch of one
    model = build_meta_model(arch, input_shape, n_outputs).train()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(n_samples, *input_shape, device="meta"))
    forward, rest = divmod(int(counter.get_total_flops()), n_samples)
    assert rest == 0, arch
    return 3 * forward
