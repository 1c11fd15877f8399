"""From the configuration to a network with its initial weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod

import torch
from torch import nn

from src.models.config import ArchConfig, CnnArch, LinearArch, MlpArch, Resnet18Arch, TorchvisionArch
from src.models.named import build_named, without_memory
from src.models.validate import validate_arch
from src.seeds import derive


def build_model(
    arch: ArchConfig,
    input_shape: Sequence[int],
    n_outputs: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
    *,
    address: Sequence[object] = (),
) -> nn.Module:
    """The network of `arch` on the CPU: samples [n, *input_shape] to outputs [n, n_outputs].

    The initial weights depend on nothing but `arch`, the shapes and the generator (seed, init, *address); `address` names
    further draws of the same seed. They are drawn in float32 whatever `dtype`, so every precision starts at the same point.
    No random state of the process is touched. Raises `ConfigError` like `validate_arch`.
    """
    shape = tuple(input_shape)
    validate_arch(arch, shape, n_outputs)
    with _drawing(derive(seed, "init", *address)):
        model = _network(arch, shape, n_outputs)
    if isinstance(arch, LinearArch) and arch.init == "zero":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    return model.to(dtype)


def build_meta_model(arch: ArchConfig, input_shape: Sequence[int], n_outputs: int) -> nn.Module:
    """The same network without memory or weights, to count and to inspect. Raises `ConfigError` like `validate_arch`."""
    shape = tuple(input_shape)
    validate_arch(arch, shape, n_outputs)
    with without_memory():
        model = _network(arch, shape, n_outputs)
    return model.to("meta")


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Everything inside draws on the CPU, in float32, from a generator that starts at `seed`; all is put back after."""
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
            yield
    finally:
        torch.set_default_dtype(default_dtype)


def _network(arch: ArchConfig, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    match arch:
        case LinearArch():
            return _perceptron(input_shape, (), n_outputs, bias=arch.bias)
        case MlpArch():
            return _perceptron(input_shape, arch.widths * (arch.depth or 1), n_outputs, bias=True)
        case CnnArch():
            return _cnn(input_shape, arch.widths, n_outputs)
        case Resnet18Arch():
            return _resnet18(input_shape[0], n_outputs)
        case TorchvisionArch():
            return build_named(arch.model, input_shape, n_outputs)


def _perceptron(input_shape: tuple[int, ...], widths: tuple[int, ...], n_outputs: int, *, bias: bool) -> nn.Sequential:
    """Hidden layers of `widths` units with ReLU, then the head; without widths a linear model."""
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    n_inputs = prod(input_shape)
    for number, width in enumerate(widths, start=1):
        modules[f"hidden_{number}"] = nn.Linear(n_inputs, width, bias=bias)
        modules[f"relu_{number}"] = nn.ReLU()
        n_inputs = width
    modules["head"] = nn.Linear(n_inputs, n_outputs, bias=bias)
    return nn.Sequential(modules)


def _cnn(input_shape: tuple[int, ...], widths: tuple[int, ...], n_outputs: int) -> nn.Sequential:
    """For each width a 3x3 convolution, ReLU and 2x2 max-pooling (odd sides lose their last pixel); then the head."""
    channels, height, width_px = input_shape
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for number, width in enumerate(widths, start=1):
        modules[f"conv_{number}"] = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        modules[f"relu_{number}"] = nn.ReLU()
        modules[f"pool_{number}"] = nn.MaxPool2d(2)
        channels, height, width_px = width, height // 2, width_px // 2
    modules["flatten"] = nn.Flatten()
    modules["head"] = nn.Linear(channels * height * width_px, n_outputs)
    return nn.Sequential(modules)


def _resnet18(channels: int, n_outputs: int) -> nn.Module:
    """torchvision's ResNet-18 with the stem for small images of He et al. 2016, section 4.2: 3x3, stride 1, no pooling."""
    from torchvision.models import resnet18

    model = resnet18(weights=None, num_classes=n_outputs)
    model.conv1 = nn.Conv2d(channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own stem
    model.maxpool = nn.Identity()
    assert isinstance(model, nn.Module)
    return model
