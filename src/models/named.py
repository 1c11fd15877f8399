"""Classification models of torchvision by name, fitted to the data's channels, image size and number of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from src.errors import ConfigError


def validate_named(name: str, input_shape: tuple[int, ...], n_outputs: int) -> None:
    """Raise `ConfigError` where the known model `name` cannot take the images."""
    problem = _problem(name, input_shape, n_outputs)
    if problem is not None:
        raise ConfigError("arch.model", name, problem)


def build_named(name: str, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    """The model with its own random initial weights: images [n, channels, height, width] to logits [n, n_outputs].

    `input_shape`: (1 or 3, height, width). The auxiliary heads of GoogLeNet and Inception are left out.
    """
    from torchvision.models import get_model

    channels, height, width = input_shape
    options: dict[str, Any] = {"num_classes": n_outputs}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options["image_size"] = height
    elif name.startswith("maxvit_"):
        options["input_size"] = (height, width)
    model: nn.Module = get_model(name, weights=None, **options)
    if channels == 1:
        _see_grey(model)
    return model


def _see_grey(model: nn.Module) -> None:
    """Sum the first convolution over its three input channels: a grey image then counts as one of three equal colours.

    Where weights are drawn with variance 1 / fan-in, that is also the draw of a convolution with one input channel.
    """
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            assert module.groups == 1, path
            module.in_channels = 1
            module.weight = nn.Parameter(module.weight.detach().sum(dim=1, keepdim=True))
            return
    raise AssertionError(f"{type(model).__name__} has no convolution over three channels")


@cache
def _problem(name: str, input_shape: tuple[int, ...], n_outputs: int) -> str | None:
    """What is wrong, with the fix, or None; the cache spares one look per seed."""
    if input_shape[0] not in (1, 3):
        return f"takes images of 1 or 3 channels, the data has {input_shape[0]}; use arch=cnn or arch=resnet18"
    shown = "x".join(str(side) for side in input_shape[1:])
    fix = "choose another model, or images of a size that it takes"
    try:
        with without_memory():
            model = build_named(name, input_shape, n_outputs)
        outputs = model.to("meta").train()(torch.empty(2, *input_shape, device="meta"))
    except NotImplementedError:  # an operation without a meta kernel says nothing about the images
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        return f"cannot take images of {shown} pixels ({' '.join(str(error).split())}); {fix}"
    assert isinstance(outputs, Tensor), name
    assert outputs.shape == (2, n_outputs), name
    return None


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules built inside hold no weights, only shapes (move them to "meta" after), and draw no random numbers."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _NumbersOnHost():
        yield


class _NumbersOnHost(TorchFunctionMode):
    """Keeps tensors of given numbers on the CPU: RegNet reads its widths and depths out of them while it is built."""

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
