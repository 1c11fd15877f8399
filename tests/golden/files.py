"""The data files of the golden cells: the same bytes of content at any time, on any machine, with any version of NumPy."""

from __future__ import annotations

import hashlib
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

CLASSES = ("left", "right", "top")


def write_files(root: Path) -> None:
    """Fills `root` with arrays, class folders of images, and a checkpoint of an MLP 64-8-10."""
    root.mkdir(parents=True)
    for name, n in (("bytes", 150), ("more_bytes", 100)):
        labels = np.arange(n) % 10
        np.savez(root / f"{name}.npz", x=images(name, labels, (1, 8, 8)), y=labels)
    inputs = (noise("inputs", (120, 4)).astype(np.float64) - 128) / 128
    np.savez(root / "targets.npz", inputs=inputs, outputs=inputs @ np.array([[1.0], [-2.0], [0.5], [0.0]]))
    write_images(root / "old", per_class=24, side=12)
    write_images(root / "new" / "train", per_class=12, side=12)
    write_images(root / "new" / "test", per_class=6, side=12)
    write_images(root / "large", per_class=12, side=32)
    shapes = {"hidden_1.weight": (8, 64), "hidden_1.bias": (8,), "head.weight": (10, 8), "head.bias": (10,)}
    weights = {name: (noise(name, shape).astype(np.float32) - 128) / 512 for name, shape in shapes.items()}
    save_file(weights, root / "model.safetensors")


def noise(name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Bytes that look random and follow from `name` alone."""
    return np.frombuffer(hashlib.shake_256(name.encode()).digest(prod(shape)), np.uint8).reshape(shape)


def images(name: str, labels: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Noise with a bright row for each label: uint8 [n, channels, height, width]."""
    pixels = noise(name, (len(labels), *shape)) // 2
    pixels[np.arange(len(labels)), :, labels % shape[1]] += 120
    return pixels


def write_images(folder: Path, per_class: int, side: int) -> None:
    """A folder of PNG files, already as large as they are read, for each class."""
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        labels = np.full(per_class, 3 * number)
        for k, pixels in enumerate(images(f"{folder.name}/{name}", labels, (3, side, side))):
            Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / name / f"{k:02}.png")
