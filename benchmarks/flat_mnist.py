"""MNIST as the plain torch loops of published protocols take it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import Tensor

from src.config import compose

Images = tuple[Tensor, Tensor]
"""Pixels from 0 to 1 [n, 784] and digits [n]."""


def flat_mnist() -> tuple[Images, Images]:
    """The training and the test images."""
    with tempfile.TemporaryDirectory() as cache:
        source = compose(["data=mnist"]).data.load(Path(cache))
    assert source.official_test is not None
    x, is_test = source.bank.x.flatten(1).float() / 255, source.official_test
    return (x[~is_test], source.y[~is_test]), (x[is_test], source.y[is_test])
