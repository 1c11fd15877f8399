"""Training of a model from outside the project continues on new data and is compared with combined.

The model of a ten-line script (torchvision's resnet18, briefly trained on a folder of images) is stage 1, bit for bit; the
images that the script held out are the test set.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.comparison.pairing import load_records
from src.comparison.verdicts import judge
from src.config import compose
from src.training.store.store import Store

CLASSES = ("bright", "dark")


def write_images(folder: Path, n: int, seed: int) -> None:
    """Noise images of two brightnesses, `n` of each class."""
    rng = np.random.default_rng(seed)
    for level, name in zip((150, 50), CLASSES, strict=True):
        (folder / name).mkdir(parents=True)
        for k in range(n):
            Image.fromarray(rng.integers(level, level + 60, (32, 32, 3), dtype=np.uint8)).save(
                folder / name / f"{k}.png"
            )


def save_model(old: Path, file: Path) -> None:
    """The user's script: a plain network, a few steps on the old images, its state dict in a file."""
    found = torchvision.datasets.ImageFolder(str(old), torchvision.transforms.ToTensor())
    model = torchvision.models.resnet18(num_classes=len(found.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for x, y in torch.utils.data.DataLoader(found, batch_size=8, shuffle=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.save(model.state_dict(), file)


def test_training_continues_from_a_users_model_and_is_compared(tmp_path: Path) -> None:
    for number, (name, n) in enumerate((("old/train", 8), ("old/test", 4), ("new/train", 6), ("new/test", 4))):
        write_images(tmp_path / name, n, seed=number)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_model(tmp_path / "old" / "train", tmp_path / "model.pt")
    settings = ["data=image_folder", f"data.root={tmp_path}", "data.path=old", "data.path2=new", "sweep=mine"]
    network = ["arch=torchvision", "arch.model=resnet18", "optimizer.lr=0.01", "optimizer.batch_size=8"]
    regimes = f"regimes=[{{sequential:{{checkpoint:'{tmp_path / 'model.pt'}'}}}},combined]"
    where = ["seeds=1", "stopping.epochs=1", "trainer=cpu", "tracking=off", f"multirun={tmp_path / 'multirun'}"]
    config = compose([*settings, *network, regimes, *where])
    run_cell(resolve(config))
    records = load_records(tmp_path / "multirun" / "mine")
    assert not records.failed
    (mine,) = (run for run in records.runs if run.regime.startswith("sequential(checkpoint="))
    first, second = mine.result["stages"]
    assert first["updates"] == 0
    assert second["updates"] == mine.result["cost"]["updates"] > 0, "the model that is there costs nothing"
    stages = [Store(tmp_path / "multirun" / ".stages").get(key) for key in mine.provenance["stage_keys"]]
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert stages[0] is not None
    assert all(torch.equal(stages[0].weights[name], tensor) for name, tensor in saved.items())
    (verdict,) = judge(records, [regime.label for regime in config.regimes])
    assert (verdict.n, verdict.b) == (1, "combined")
    assert "too few seeds" in verdict.reason
    assert mine.result["accuracy_matrix"][0][0] is not None, "the old model itself is scored on the old images"
