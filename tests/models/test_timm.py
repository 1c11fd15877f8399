"""`arch=timm`: models of an optional package."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from src.errors import ConfigError
from src.models.build import build_model
from src.models.timm import TimmArch


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"^arch=timm: needs the package timm, an extra; .*uv pip install timm$"):
        build_model(TimmArch(name="timm", model="resnet18d"), (3, 32, 32), 4, 0)


def test_models_take_the_datas_channels_size_and_classes() -> None:
    pytest.importorskip("timm", reason="the extra timm is not installed")
    for model, shape in (("resnet10t", (1, 28, 28)), ("vit_tiny_patch16_224", (3, 32, 32))):
        arch = TimmArch(name="timm", model=model)
        first, again = (build_model(arch, shape, 4, 0).eval() for _ in range(2))
        x = torch.zeros(2, *shape)
        assert first(x).shape == (2, 4)
        assert torch.equal(first(x), again(x))
    for model, problem in (("resnet81d", "did you mean resnet"), ("vit_small_patch32_224", "fails on two samples")):
        with pytest.raises(ConfigError, match=rf"^arch\.model={model}: .*{problem}"):
            build_model(TimmArch(name="timm", model=model), (3, 9, 9), 4, 0)
