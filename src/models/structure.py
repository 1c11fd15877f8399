"""What a network is made of: its layers in order, and what the training engine must know about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

STACKED_MAX_PARAMETERS = 32_768
STACKED_MAX_INPUTS = 256
"""Up to these sizes twelve models train faster stacked than one after the other, at batches of 32 and 64.

docs/PERFORMANCE.md has the measurements. Larger batches favour the loop, yet one cell must not mix engines.
"""


def layers(model: nn.Module) -> list[tuple[str, list[str]]]:
    """Layers with parameters of their own, input first, head last: (module path, its parameters' names in the model).

    A layer is a module that holds parameters directly, so a convolution and the normalisation after it are two. The
    order is that of registration, which is that of the forward pass in every architecture offered here.
    """
    found = []
    for path, module in model.named_modules():
        names = [f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)]
        if names:
            found.append((path, names))
    return found


def n_parameters(model: nn.Module) -> int:
    """Number of parameters, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def head_names(model: nn.Module, n_outputs: int) -> list[str]:
    """Names of the last layer's parameters, if each has a row for every output; otherwise none."""
    shapes, (_, names) = {name: p.shape for name, p in model.named_parameters()}, layers(model)[-1]
    return names if all(shapes[name][:1] == (n_outputs,) for name in names) else []


def prefers_stacking(model: nn.Module, device: str = "cpu", is_captured: bool = False) -> bool:
    """The engine rule: True for a small stack of Linear layers (nothing but Linear, ReLU and Flatten in a row).

    On a GPU (`device` "cuda") for a row of any size, convolutions and pooling included: there a step of a small model
    is the time to start its kernels, and a stack starts them once for all. A CUDA graph (`is_captured`) starts all
    kernels of an update at once, so there convolutions run as each model's own.

    It depends on the model and the kind of device alone, whose results are never compared with another's, and never on
    how many are trained together, so that a group's size cannot change a result.
    """
    if device == "cuda":
        return is_row_of_linears(model) if is_captured else _is_row_of(is_stackable, model)
    if not is_row_of_linears(model):
        return False
    n_inputs = max(part.in_features for part in model.modules() if type(part) is nn.Linear)
    return n_parameters(model) <= STACKED_MAX_PARAMETERS and n_inputs <= STACKED_MAX_INPUTS


SMALL_MAP = 4
"""Pixels. ResNet-18 ends at maps of 1 pixel on images of 8x8, of 4 on 12x12 and 16x16, of 16 on 28x28 and 32x32."""


def memory_layout(
    model: nn.Module, input_shape: Sequence[int], device: torch.device, is_bf16: bool = False
) -> torch.memory_format:
    """Memory format of inputs and weights. On a CPU, and in bfloat16 on a GPU, convolutions are faster with channels
    last unless some of them read very small feature maps (measurements in docs/PERFORMANCE.md, docs/GPU.md). Otherwise
    a GPU gets torch's default.
    """
    pays = (device.type == "cpu" or is_bf16) and SMALL_MAP < _smallest_map(model, input_shape) < math.inf
    return torch.channels_last if pays else torch.contiguous_format


def _smallest_map(model: nn.Module, input_shape: Sequence[int]) -> float:
    """Pixels of the smallest map that a convolution over neighbours reads; infinite where there is none."""
    pixels = [math.inf]
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: pixels.append(inputs[0].shape[-2:].numel()))
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
    ]
    if hooks:
        modes = {module: module.training for module in model.modules()}
        parameter = next(model.parameters())
        with torch.no_grad():
            model.eval()(torch.zeros(1, *input_shape, dtype=parameter.dtype, device=parameter.device))
        for module, training in modes.items():
            module.training = training
        for hook in hooks:
            hook.remove()
    return min(pixels)


def is_row_of_linears(model: nn.Module) -> bool:
    """Nothing but Linear, ReLU and Flatten in a row, one Linear at least."""
    return _is_row_of(lambda layer: type(layer) in (nn.Linear, nn.ReLU, nn.Flatten), model)


def _is_row_of(is_known: Callable[[nn.Module], bool], model: nn.Module) -> bool:
    """Whether all layers are known, none with parameters is called twice, and the last ones, one Linear at least, read
    vectors."""
    parts = [layer for _, layer in row_of_layers(model)]
    kinds, own = [type(part) for part in parts], [part for part in parts if any(True for _ in part.parameters())]
    if nn.Linear not in kinds or not all(map(is_known, parts)) or len(set(own)) < len(own):
        return False
    return set(kinds[kinds.index(nn.Linear) :]) <= {nn.Linear, nn.ReLU}


def row_of_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that a model calls one after the other, perhaps one several times, each with the prefix of its
    parameters' names; a class with a forward pass of its own is one module."""
    if isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        return [(f"{name}.", layer) for name, layer in zip(model._modules, model, strict=True)]
    return [("", model)]


def is_stackable(layer: nn.Module) -> bool:
    """Whether the engine of stacked parameters knows the layer."""
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros"
    return type(layer) in (nn.Linear, nn.ReLU, nn.Flatten, nn.MaxPool2d)


def has_dropout(model: nn.Module) -> bool:
    """Whether the forward pass of training draws random numbers: dropout of any kind, stochastic depth included."""
    return any(_drop_rate(module) > 0 for module in model.modules())


def _drop_rate(module: nn.Module) -> float:
    if isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ == "StochasticDepth":
        return float(module.p)  # type: ignore[arg-type]
    for attribute in ("attention_dropout", "drop_rate", "dropout"):  # where dropout is called as a function
        rate = getattr(module, attribute, 0.0)
        if isinstance(rate, float | int) and rate > 0:
            return float(rate)
    return 0.0


def has_batchnorm(model: nn.Module) -> bool:
    """Whether outputs in training depend on the whole batch, and the model carries running statistics."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
