"""Settings of an architecture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from src.typed import bounds


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearArch:
    """`init`: weights drawn by the seed, or all zero."""

    name: Literal["linear"]
    bias: bool
    init: Literal["default", "zero"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MlpArch:
    """Hidden layers of `widths` units; `depth` repeats a single width that many times."""

    name: Literal["mlp"]
    widths: tuple[int, ...] = field(metadata=bounds(ge=1))
    depth: int | None = field(metadata=bounds(ge=1))


@dataclass(frozen=True, kw_only=True, slots=True)
class CnnArch:
    """3x3 convolutions of `widths` channels, each followed by ReLU and 2x2 max-pooling, then a linear head."""

    name: Literal["cnn"]
    widths: tuple[int, ...] = field(metadata=bounds(ge=1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Resnet18Arch:
    """torchvision's ResNet-18 with the 3x3 stem without pooling that fits images of about 32x32."""

    name: Literal["resnet18"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchvisionArch:
    """Any classification model of torchvision, by its name, without pretrained weights."""

    name: Literal["torchvision"]
    model: str


ArchConfig = LinearArch | MlpArch | CnnArch | Resnet18Arch | TorchvisionArch
