"""The real files, end to end: a tiny cell on MNIST, Fashion-MNIST, USPS as Dataset 2 of MNIST, and CIFAR-10.

Skipped, with the reason, where DATA_ROOT lacks the files. A few hundred samples cannot show who wins; they can show that the
labels belong to the images: a linear model learns far more than chance.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.config import compose

pytestmark = pytest.mark.real_data
CELL = ["seeds=2", "arch=linear", "optimizer.lr=0.02", "stopping.epochs=3", "split.val=0.005", "tracking=off"]


def needed(name: str) -> Path:
    """A file of DATA_ROOT, or the reason to skip."""
    path = Path(os.environ.get("DATA_ROOT", "nowhere")) / name
    if not path.exists():
        pytest.skip(f"DATA_ROOT has no {name}")
    return path


def accuracies(tmp_path: Path, *overrides: str, of: str = "union") -> list[float]:
    """Test accuracy of every run of the cell."""
    config = compose([*CELL, f"multirun={tmp_path}", *overrides])
    assert run_cell(resolve(config)).failures == ()
    results = [json.loads(path.read_text()) for path in sorted(resolve(config).folder.glob("*/result.json"))]
    assert len(results) == 4
    return [result["result"]["metrics"][f"test/{of}/accuracy"] for result in results]


@pytest.mark.parametrize(("data", "folder", "least"), [("mnist", "MNIST", 0.6), ("fashion_mnist", "FashionMNIST", 0.5)])
def test_files_as_torchvision_lays_them_out(data: str, folder: str, least: float, tmp_path: Path) -> None:
    root = needed(f"{folder}/raw/train-images-idx3-ubyte.gz").parent.parent.parent
    found = accuracies(tmp_path, f"data={data}", f"data.root={root}", "data.download=false", "split.size=400")
    assert min(found) > least


def test_another_source_for_dataset_2(tmp_path: Path) -> None:
    usps = np.load(needed("USPS/usps16.npz"))
    root = needed("MNIST/raw/train-images-idx3-ubyte.gz").parent.parent.parent
    file = tmp_path / "usps.npz"
    np.savez(file, x=usps["train_images"], y=usps["train_labels"])
    shift = ["split.shift.kind=source", f"split.shift.source={file}", "split.size=600"]
    found = accuracies(tmp_path, "data=mnist", f"data.root={root}", *shift, of="d2")
    assert min(found) > 0.6


def test_a_folder_of_images(tmp_path: Path) -> None:
    archive = needed("CIFAR10-jpeg/cifar10-jpeg.zip")
    with zipfile.ZipFile(archive) as packed:
        names = [n for n in packed.namelist() if "/train/airplane/" in n or "/train/frog/" in n]
        chosen = [
            n for word in ("airplane", "frog") for n in [m for m in names if word in m and m.endswith(".jpg")][:150]
        ]
        for name in chosen:
            target = tmp_path / "images" / Path(name).parent.name / Path(name).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(packed.read(name))
    where = ["data=image_folder", f"data.path={tmp_path / 'images'}", f"data.root={tmp_path}", "split.size=160"]
    assert min(accuracies(tmp_path, *where, "optimizer.lr=0.005", "stopping.epochs=10")) > 0.65
