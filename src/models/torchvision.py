"""`arch=torchvision`: any classification model of torchvision by its name, from random weights."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.errors import ConfigError, did_you_mean
from src.models.architecture import Architecture

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class TorchvisionArch(Architecture):
    """A classification model of torchvision, fitted to the data's channels and classes."""

    model: str
    """The model's name, as in `torchvision.models.get_model`."""

    @property
    def label(self) -> str:
        return self.model

    def weights_file(self, given: str) -> str:
        """A file, or the name of pretrained weights (DEFAULT, IMAGENET1K_V1), which torchvision downloads once."""
        if not given.isidentifier() or Path(given).exists():
            return given
        self.check()
        import torch
        from torchvision.models import get_model_weights

        known = get_model_weights(self.model).__members__
        if given not in known:
            fix = f"name a file, or {' or '.join(known)}" if known else "name a file"
            raise ConfigError("arch.weights", given, f"{self.model} has no pretrained weights of this name; {fix}")
        url = known[given].url
        file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        if not file.exists():
            try:
                torch.hub.load_state_dict_from_url(url, map_location="cpu")
            except OSError as error:
                problem = f"cannot be downloaded ({error}); save its file as {file}"
                raise ConfigError("arch.weights", given, problem) from error
        return str(file)

    def check(self) -> None:
        known = torchvision_models()
        if self.model not in known:
            problem = f"no classification model of torchvision; {did_you_mean(self.model.lower(), known)}"
            raise ConfigError("arch.model", self.model, problem)

    def check_data(self, input_shape: tuple[int, ...], n_outputs: int) -> None:
        problem = _problem(self, input_shape, n_outputs)
        if problem is not None:
            raise ConfigError("arch.model", self.model, problem)

    def network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        """`input_shape`: (1 or 3, height, width). The auxiliary heads of GoogLeNet and Inception are left out."""
        from torchvision.models import get_model

        channels, height, width = input_shape
        options: dict[str, Any] = {"num_classes": n_outputs}
        if self.model in ("googlenet", "inception_v3"):
            options |= {"aux_logits": False, "init_weights": True}
        elif self.model.startswith("vit_"):
            options["image_size"] = height
        elif self.model.startswith("maxvit_"):
            options["input_size"] = (height, width)
        model: nn.Module = get_model(self.model, weights=None, **options)
        if channels == 1:
            _take_grey(model)
        return model


@cache
def torchvision_models() -> list[str]:
    """Names of torchvision's classification models, read from its source: importing it takes seconds (docs/LOG.md)."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None, "torchvision is not installed"
    assert spec.origin is not None, spec
    registered = re.compile(r"^@register_model\(\)\n(?:.*\n)*?def (\w+)", re.MULTILINE)
    files = (Path(spec.origin).parent / "models").glob("*.py")
    return sorted(name for file in files for name in registered.findall(file.read_text(encoding="utf-8")))


def _take_grey(model: nn.Module) -> None:
    """Sum the first convolution over its three input channels: a grey image then counts as one of three equal colours.

    Where weights are drawn with variance 1 / fan-in, that is also the draw of a convolution with one input channel.
    """
    from torch import nn

    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            assert module.groups == 1, path
            module.in_channels = 1
            module.weight = nn.Parameter(module.weight.detach().sum(dim=1, keepdim=True))
            return
    raise AssertionError(f"{type(model).__name__} has no convolution over three channels")


@cache
def _problem(arch: TorchvisionArch, input_shape: tuple[int, ...], n_outputs: int) -> str | None:
    """Why the model cannot take the images, with the fix, or None: two samples pass through it on the meta device."""
    if input_shape[0] not in (1, 3):
        return f"takes images of 1 or 3 channels, the data has {input_shape[0]}; use arch=cnn or arch=resnet18"
    import torch

    from src.models.build import without_memory

    shown = "x".join(str(side) for side in input_shape[1:])
    fix = "choose another model, or images of a size that it takes"
    try:
        with without_memory():
            model = arch.network(input_shape, n_outputs)
        outputs = model.to("meta").train()(torch.empty(2, *input_shape, device="meta"))
    except NotImplementedError:  # an operation without a meta kernel says nothing about the images
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        return f"cannot take images of {shown} pixels ({error}); {fix}"
    assert isinstance(outputs, torch.Tensor), arch
    assert outputs.shape == (2, n_outputs), arch
    return None
