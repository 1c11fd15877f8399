"""An architecture that does not fit is refused in one line with the key, the value and the fix."""

import subprocess
import sys

import pytest
import torch

from src.errors import ConfigError
from src.models.architecture import Architecture
from src.models.build import build_model
from src.models.cnn import CnnArch
from src.models.linear import LinearArch
from src.models.mlp import MlpArch
from src.models.resnet18 import Resnet18Arch
from src.models.torchvision import TorchvisionArch, torchvision_models


def named(model: str) -> TorchvisionArch:
    return TorchvisionArch(name="torchvision", model=model)


CNN = CnnArch(name="cnn", widths=(16, 32))


@pytest.mark.parametrize(
    ("arch", "shape", "key", "words"),
    [
        (MlpArch(name="mlp", widths=(), depth=None), (4,), "arch.widths", "arch=linear"),
        (MlpArch(name="mlp", widths=(8, 4), depth=2), (4,), "arch.depth", "arch.depth=null"),
        (CnnArch(name="cnn", widths=()), (1, 8, 8), "arch.widths", "arch=linear"),
        (CNN, (20,), "arch", "arch=mlp"),
        (CNN, (1, 3, 28), "arch.widths", "at most 1 width"),
        (CNN, (1, 1, 28), "arch.widths", "arch=mlp"),
        (CnnArch(name="cnn", widths=(4, 4, 4, 4)), (1, 8, 8), "arch.widths", "at most 3 widths"),
        (Resnet18Arch(name="resnet18"), (20,), "arch", "arch=mlp"),
        (named("resnet81"), (3, 32, 32), "arch.model", "did you mean resnet18?"),
        (named("ResNet18"), (3, 32, 32), "arch.model", "did you mean resnet18"),
        (named("qqq"), (3, 32, 32), "arch.model", "known: alexnet, "),
        (named("fasterrcnn_resnet50_fpn"), (3, 32, 32), "arch.model", "no classification model"),
        (named("resnet18"), (20,), "arch", "arch=mlp"),
        (named("resnet18"), (2, 32, 32), "arch.model", "arch=cnn or arch=resnet18"),
        (named("inception_v3"), (3, 32, 32), "arch.model", "32x32 pixels"),
        (named("vgg11"), (1, 28, 28), "arch.model", "28x28 pixels"),
        (named("vit_b_16"), (3, 30, 30), "arch.model", "indivisible by patch size"),
        (named("vit_b_16"), (3, 32, 64), "arch.model", "32x64 pixels"),
    ],
    ids=str,
)
def test_incompatible_models_are_refused(arch: Architecture, shape: tuple[int, ...], key: str, words: str) -> None:
    for refuse in (lambda: arch.validate(shape, 10), lambda: build_model(arch, shape, 10, seed=0)):
        with pytest.raises(ConfigError) as refusal:
            refuse()
        assert str(refusal.value).startswith(f"{key}=")
        assert words in str(refusal.value)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        (LinearArch(name="linear", bias=True, init="default"), (1,)),
        (MlpArch(name="mlp", widths=(8,), depth=4), (3, 5, 7)),
        (CNN, (1, 4, 4)),
        (Resnet18Arch(name="resnet18"), (1, 8, 8)),
        (named("vit_b_16"), (1, 32, 32)),
        (named("regnet_y_400mf"), (3, 32, 32)),  # reads numbers out of tensors while it is built
        (named("maxvit_t"), (3, 224, 224)),
        (named("swin_v2_t"), (3, 32, 32)),
    ],
    ids=str,
)
def test_compatible_models_are_accepted_without_drawing_random_numbers(
    arch: Architecture, shape: tuple[int, ...]
) -> None:
    before = torch.get_rng_state()
    arch.validate(shape, 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_names_read_from_the_source_are_torchvisions_own() -> None:
    import torchvision

    assert torchvision_models() == sorted(torchvision.models.list_models(module=torchvision.models))


def test_names_and_widths_are_checked_without_torch() -> None:
    program = (
        "import sys; from src.models.catalog import CnnArch, TorchvisionArch;"
        "TorchvisionArch(name='torchvision', model='resnet50').check();"
        "CnnArch(name='cnn', widths=(4,)).validate((1, 8, 8), 10);"
        "print([m for m in ('torch', 'torchvision') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_sound_architecture_needs_no_data() -> None:
    named("mobilenet_v3_small").check()
    with pytest.raises(ConfigError, match=r"arch\.model=mobilnet_v3_small: .*mobilenet_v3_small"):
        named("mobilnet_v3_small").check()
