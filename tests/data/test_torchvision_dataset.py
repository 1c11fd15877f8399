"""`data=torchvision`: classes of torchvision on tiny files in their own layout; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from src.cells.resolve import resolve
from src.config import compose
from src.data.source import Source
from src.errors import ConfigError

RNG = np.random.default_rng(0)


def _idx(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, values.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    path.write_bytes(head + values.tobytes())


def _digits(folder: Path, labels: Sequence[int], prefix: str = "") -> NDArray[np.uint8]:
    """Files in the layout of MNIST; returns the training images."""
    y = np.array(labels, np.uint8)
    images = RNG.integers(0, 256, (len(y), 28, 28), dtype=np.uint8)
    test = {"": "t10k"}.get(prefix, f"{prefix}test")
    for name, n in ((f"{prefix}train", len(y)), (test, len(y) // 2)):
        _idx(folder / f"{name}-images-idx3-ubyte", images[:n])
        _idx(folder / f"{name}-labels-idx1-ubyte", y[:n])
    return images


def _photos(folder: Path, sizes: Sequence[tuple[int, int]]) -> None:
    folder.mkdir(parents=True)
    for k, size in enumerate(sizes):
        Image.fromarray(RNG.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(folder / f"{k}.png")


def _load(root: Path, dataset: str, *overrides: str) -> Source:
    settings = ["data=torchvision", f"data.dataset={dataset}", f"data.root={root}", "data.download=false", *overrides]
    return compose(settings).data.load(root / ".cache")


def test_grey_images_with_a_test_set_become_a_source(tmp_path: Path) -> None:
    images = _digits(tmp_path / "KMNIST" / "raw", [0, 1, 2] * 20)
    source = _load(tmp_path, "KMNIST")
    assert torch.equal(source.bank.x[:60, 0], torch.from_numpy(images))
    assert source.class_names == ("o", "ki", "su")
    assert source.official_test is not None
    assert source.official_test.tolist() == [False] * 60 + [True] * 30
    settings = ["data=torchvision", "data.dataset=KMNIST", f"data.root={tmp_path}", f"multirun={tmp_path / 'm'}"]
    cell = resolve(compose([*settings, "split.size=40", "tracking=off"]))
    assert cell.config.axes()["data"] == "KMNIST"
    assert cell.config.sweep == "KMNIST-mlp"


def test_arguments_reach_the_class_and_its_numbers_may_start_anywhere(tmp_path: Path) -> None:
    images = _digits(tmp_path / "EMNIST" / "raw", [1, 2, 26] * 4, prefix="emnist-letters-")
    source = _load(tmp_path, "EMNIST", "data.arguments=[split:letters]")
    assert source.class_names == ("a", "b", "z")
    assert source.y.tolist() == [0, 1, 2] * 4 + [0, 1, 2] * 2
    assert torch.equal(source.bank.x[:12, 0], torch.from_numpy(images))


def test_photos_of_several_sizes_are_scaled_and_sets_are_found_by_their_split(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("negative", "positive"):
            _photos(tmp_path / "rendered-sst2" / part / name, [(30, 20), (24, 24), (20, 40)])
    with pytest.raises(
        ConfigError, match=r"data.image_size=null: images of RenderedSST2 differ in size \(30x20 and 24x24\)"
    ):
        _load(tmp_path, "RenderedSST2")
    source = _load(tmp_path, "RenderedSST2", "data.image_size=16", "data.channels=1")
    assert source.bank.x.shape == (12, 1, 16, 16)
    assert source.class_names == ("negative", "positive")
    assert source.official_test is not None
    assert int(source.official_test.sum()) == 6
    only = _load(tmp_path, "RenderedSST2", "data.image_size=16", "data.arguments=[split:test]")
    assert (len(only), only.official_test, only.bank.x.shape[1]) == (6, None, 3)


def test_a_class_without_a_test_set_is_one_set(tmp_path: Path) -> None:
    for name in ("Forest", "River"):
        _photos(tmp_path / "eurosat" / "2750" / name, [(8, 8)] * 3)
    source = _load(tmp_path, "EuroSAT")
    assert (len(source), source.official_test, source.class_names) == (6, None, ("Forest", "River"))


@pytest.mark.parametrize(
    ("dataset", "overrides", "line"),
    [
        ("KMINST", [], r"data.dataset=KMINST: torchvision has no such data set; did you mean KMNIST\?"),
        (
            "KMNIST",
            [],
            r"data.root=.*: holds no complete KMNIST \(Dataset not found.*; set data.download=true, or copy",
        ),
        ("CIFAR100", [], r"holds no complete CIFAR100 .*; set data.download=true"),
        ("ImageNet", [], r"holds no complete ImageNet .*copy torchvision's files of ImageNet below it"),
        ("EMNIST", ["data.arguments=[letters]"], r"data.arguments=\[\"letters\"\]: letters is no NAME:VALUE"),
        ("EMNIST", ["data.arguments=[split:greek]"], r"EMNIST refuses them \(.*greek.*it takes .*split"),
        ("EMNIST", ["data.arguments=[alphabet:greek]"], r"EMNIST refuses them \(.*"),
        ("FakeData", ["data.arguments=[size:3,num_classes:1]"], r"data.dataset=FakeData: has one class only"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, dataset: str, overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as error:
        _load(tmp_path, dataset, *overrides)
    assert "\n" not in str(error.value)


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def download(_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(datasets.KMNIST, "download", download)
    with pytest.raises(ConfigError, match=r"holds no complete KMNIST \(no network\); check the network, or copy"):
        _load(tmp_path, "KMNIST", "data.download=true")


def test_boxes_and_masks_are_no_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    class Boxes(datasets.FakeData):
        def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, int]]:
            return Image.new("L", (4, 4)), {"boxes": index}

    monkeypatch.setattr(datasets, "FakeData", Boxes)
    with pytest.raises(ConfigError, match="FakeData: has no images with one class each"):
        _load(tmp_path, "FakeData")
