"""The README's example: advice on two folders of 300 images, from the command to the answer.

    DATA_ROOT=... python -m benchmarks.two_folders [folder=PATH] [repeats=1] [words="go=true"]

The old images are 30 of each class of Fashion-MNIST, the new ones 30 others of each, turned by 30 degrees and half as bright; the
deployed model will see images like the new ones. Prints the answer and the seconds of the whole command, the first of which
reads the images into the cache. `folder`: where images and sweeps are kept; a temporary folder by default.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import PROJECT, flags, spread

FLAGS = {"folder": "", "repeats": "1", "words": ""}
PER_CLASS = 30


def write_images(folder: Path) -> None:
    """`old` and `new`, each a folder of PNG files per class."""
    from PIL import Image
    from torchvision.datasets import FashionMNIST

    data = FashionMNIST(os.environ["DATA_ROOT"], train=True, download=True)
    images, labels = data.data.numpy(), data.targets.numpy()
    rng = np.random.default_rng(0)
    for label, name in enumerate(data.classes):
        rows = rng.permutation(np.flatnonzero(labels == label))[: 2 * PER_CLASS]
        for number, row in enumerate(rows):
            image, is_new = Image.fromarray(images[row]), number >= PER_CLASS
            if is_new:
                image = image.rotate(30).point(lambda value: value // 2)
            target = folder / ("new" if is_new else "old") / name.replace("/", "-").lower()
            target.mkdir(parents=True, exist_ok=True)
            image.save(target / f"{number}.png")


def main() -> None:
    given = flags(FLAGS, __doc__ or "")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(given["folder"] or scratch).absolute()
        if not (folder / "new").exists():
            write_images(folder)
        command = [sys.executable, "-m", "src.advise", "data=image_folder", "arch=cnn", "serve=d2"]
        command += [f"data.path={folder / 'old'}", f"data.path2={folder / 'new'}", *shlex.split(given["words"])]
        seconds = []
        for repeat in range(int(given["repeats"])):
            begun = time.monotonic()
            subprocess.run([*command, f"multirun={folder / f'multirun-{repeat}'}"], check=True, cwd=PROJECT)
            seconds.append(time.monotonic() - begun)
        print(f"from the command to the answer: {spread(seconds)} s")


if __name__ == "__main__":
    main()
