"""Files in torchvision's layout are read packed, checked, and whole, or not at all.

Properties: images and labels come out as they went in, training set first; nothing is written into the data root; a
missing, truncated or altered file is refused by name with a way to get it; only missing files are downloaded.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.data.sources.mnist_cifar import FILES, TorchvisionData
from src.errors import ConfigError
from tests.data.samples import read_source

RNG = np.random.default_rng(0)


def idx(values: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def of(name: Any, root: Path, download: bool = False) -> TorchvisionData:
    return TorchvisionData(name=name, root=str(root), download=download)


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A small data set of 30 + 10 images in tmp_path, whose sums are expected instead of the real ones."""
    arrays = {
        "train-images-idx3-ubyte": RNG.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": (np.arange(30) % 10).astype(np.uint8),
        "t10k-images-idx3-ubyte": RNG.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(10).astype(np.uint8),
    }
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, values in arrays.items():
        (raw / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
    sums = {f"{name}.gz": md5((raw / f"{name}.gz").read_bytes()) for name in arrays}
    monkeypatch.setitem(FILES, "mnist", dataclasses.replace(FILES["mnist"], md5=sums))
    return {"raw": raw, "arrays": arrays, "sums": sums}


@pytest.mark.parametrize("unpacked", [False, True])
def test_mnist_is_decoded_without_changes(tmp_path: Path, mnist: dict[str, Any], unpacked: bool) -> None:
    if unpacked:
        for file in list(mnist["raw"].iterdir()):
            file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
            file.unlink()
    before = sorted(tmp_path.rglob("*"))
    source = read_source(of("mnist", tmp_path, download=True))
    arrays = list(mnist["arrays"].values())
    assert np.array_equal(source.bank.x.numpy()[:, 0], np.concatenate([arrays[0], arrays[2]]))
    assert np.array_equal(source.y.numpy(), np.concatenate([arrays[1], arrays[3]]))
    assert source.official_test is not None
    assert source.official_test.tolist() == [False] * 30 + [True] * 10
    assert sorted(tmp_path.rglob("*")) == before


def test_sums_and_names_are_torchvisions() -> None:
    from torchvision import datasets

    for files in FILES.values():
        theirs = getattr(datasets, files.kind)
        if files.archive is None:
            assert list(files.md5.items()) == theirs.resources
        else:
            assert [list(item) for item in files.md5.items()] == [*theirs.train_list, *theirs.test_list]
            assert (theirs.filename, theirs.tgz_md5) == files.archive
            assert theirs.base_folder == files.folder
    assert list(FILES["fashion_mnist"].class_names) == datasets.FashionMNIST.classes


def test_error_for_a_missing_file_names_it_and_the_download(tmp_path: Path, mnist: dict[str, Any]) -> None:
    (mnist["raw"] / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(ConfigError, match=r"t10k-images-idx3-ubyte\.gz is missing; set data\.download=true"):
        read_source(of("mnist", tmp_path))


def test_failed_download_is_reported_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "FashionMNIST", unreachable)
    with pytest.raises(ConfigError, match=r"could not be downloaded \(no route to host\); check the network"):
        read_source(of("fashion_mnist", tmp_path, download=True))


def test_altered_file_is_refused(tmp_path: Path, mnist: dict[str, Any]) -> None:
    file = mnist["raw"] / "train-images-idx3-ubyte.gz"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"train-images-idx3-ubyte\.gz is damaged \(its MD5 is .*delete it and run"):
        read_source(of("mnist", tmp_path, download=True))


@pytest.mark.parametrize("damage", ["cut gz", "cut idx", "no idx", "labels"])
def test_damage_that_a_sum_does_not_see_is_refused(tmp_path: Path, mnist: dict[str, Any], damage: str) -> None:
    name = "train-labels-idx1-ubyte.gz" if damage == "labels" else "train-images-idx3-ubyte.gz"
    file = mnist["raw"] / name
    content = gzip.decompress(file.read_bytes())
    new = {
        "cut gz": file.read_bytes()[:-40],
        "cut idx": gzip.compress(content[:-1]),
        "no idx": gzip.compress(b"<html>"),
        "labels": gzip.compress(idx(np.arange(12, dtype=np.uint8))),
    }[damage]
    file.write_bytes(new)
    mnist["sums"][name] = md5(new)
    with pytest.raises(ConfigError, match="is damaged"):
        read_source(of("mnist", tmp_path))


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batches = {}
    for name in FILES["cifar10"].md5:
        data = RNG.integers(0, 256, (10, 3072), dtype=np.uint8)
        batches[name] = {"data": data, "labels": RNG.permutation(10).tolist()}
        (folder / name).write_bytes(pickle.dumps(batches[name]))
    sums = {name: md5((folder / name).read_bytes()) for name in batches}
    monkeypatch.setitem(FILES, "cifar10", dataclasses.replace(FILES["cifar10"], md5=sums))
    return {"folder": folder, "batches": batches}


def check_cifar(root: Path, batches: dict[str, Any]) -> None:
    source = read_source(of("cifar10", root))
    assert np.array_equal(source.bank.x.numpy().reshape(60, -1), np.concatenate([b["data"] for b in batches.values()]))
    assert source.y.tolist() == [label for batch in batches.values() for label in batch["labels"]]
    assert source.bank.input_shape == (3, 32, 32)
    assert source.official_test is not None
    assert source.official_test.tolist() == [False] * 50 + [True] * 10
    assert source.class_names is not None
    assert [source.class_names[k] for k in (2, 3, 5)] == ["bird", "cat", "dog"]


def test_cifar_from_its_folder(tmp_path: Path, cifar: dict[str, Any]) -> None:
    check_cifar(tmp_path, cifar["batches"])
    file = cifar["folder"] / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="data_batch_3 is damaged"):
        read_source(of("cifar10", tmp_path))
    file.unlink()
    with pytest.raises(ConfigError, match="data_batch_3 is missing"):
        read_source(of("cifar10", tmp_path))


def test_cifar_from_its_archive_without_unpacking(
    tmp_path: Path, cifar: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "other"
    root.mkdir()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(cifar["folder"], "cifar-10-batches-py")
    (root / "cifar-10-python.tar.gz").write_bytes(packed.getvalue())
    archive = ("cifar-10-python.tar.gz", md5(packed.getvalue()))
    monkeypatch.setitem(FILES, "cifar10", dataclasses.replace(FILES["cifar10"], archive=archive))
    check_cifar(root, cifar["batches"])
    assert [file.name for file in root.iterdir()] == ["cifar-10-python.tar.gz"]
    (root / "cifar-10-python.tar.gz").write_bytes(packed.getvalue()[:-9])
    with pytest.raises(ConfigError, match=r"cifar-10-python\.tar\.gz is damaged"):
        read_source(of("cifar10", root))
