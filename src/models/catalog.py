"""The architectures by name."""

from __future__ import annotations

from src.models.architecture import Architecture
from src.models.cnn import CnnArch
from src.models.linear import LinearArch
from src.models.mlp import MlpArch
from src.models.resnet18 import Resnet18Arch
from src.models.timm import TimmArch
from src.models.torchvision import TorchvisionArch

ARCHITECTURES: dict[str, type[Architecture]] = {
    "linear": LinearArch,
    "mlp": MlpArch,
    "cnn": CnnArch,
    "resnet18": Resnet18Arch,
    "torchvision": TorchvisionArch,
    "timm": TimmArch,
}
