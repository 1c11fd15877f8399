"""Floating-point operations are those of the formula: twice the multiply-adds of the forward pass, times three."""

import pytest

from src.evaluation.flops import training_flops
from src.models.architecture import Architecture
from src.models.cnn import CnnArch
from src.models.linear import LinearArch
from src.models.mlp import MlpArch
from src.models.resnet18 import Resnet18Arch
from src.models.torchvision import TorchvisionArch


@pytest.mark.parametrize(
    ("arch", "shape", "multiply_adds"),
    [
        (LinearArch(name="linear", bias=True, init="default"), (1, 8, 8), 64 * 10),
        (MlpArch(name="mlp", widths=(64,), depth=2), (1, 8, 8), 64 * 64 + 64 * 64 + 64 * 10),
        (
            CnnArch(name="cnn", widths=(16, 32)),
            (1, 28, 28),
            28 * 28 * 9 * 16 + 14 * 14 * 9 * 16 * 32 + 32 * 7 * 7 * 10,
        ),
    ],
    ids=str,
)
def test_small_networks_by_formula(arch: Architecture, shape: tuple[int, ...], multiply_adds: int) -> None:
    assert training_flops(arch, shape, 10) == 3 * 2 * multiply_adds


@pytest.mark.parametrize(
    ("model", "billions"), [("resnet18", 1.814), ("mobilenet_v3_small", 0.057), ("vit_b_16", 17.564)]
)
def test_models_of_torchvision_as_its_documentation_counts_them(model: str, billions: float) -> None:
    arch = TorchvisionArch(name="torchvision", model=model)
    assert training_flops(arch, (3, 224, 224), 1000) / 6e9 == pytest.approx(billions, rel=0.02)


def test_flops_of_the_small_image_resnet_match_the_published_ones() -> None:
    flops = training_flops(Resnet18Arch(name="resnet18"), (3, 32, 32), 10)
    assert flops / 6e9 == pytest.approx(0.556, rel=0.01)  # multiply-adds of the CIFAR variant
