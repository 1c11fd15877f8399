"""The user's images are decoded once, correctly and by one process; errors name the file.

Properties: pixels are as Pillow decodes them, upright; the cache is reused until any file changes; a damaged cache is
rebuilt; concurrent readers decode once; a read-only data root has its cache elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.data import image_cache
from src.data.image_cache import decode_image
from src.data.sources.catalog import load_shift_source
from src.data.sources.image_folder import ImageFolderData
from src.errors import ConfigError
from tests.data.samples import build_stream, ids, read_source, split_of


def save_image(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (6, 6)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


def tree(folder: Path, classes: dict[str, int], shade: int = 0) -> Path:
    for label, (name, count) in enumerate(classes.items()):
        for k in range(count):
            save_image(folder / name / f"{k:03}.png", (50 * label, 5 * k, shade))
    return folder


def of(
    root: Path, path: str = "a", path2: str | None = None, image_size: int = 4, channels: Any = 3, **given: Any
) -> ImageFolderData:
    return ImageFolderData(
        name="image_folder", root=str(root), path=path, path2=path2, image_size=image_size, channels=channels, **given
    )


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that a test decoded."""
    calls: list[Path] = []
    original: Callable[..., Any] = decode_image

    def counted(file: Path, size: int, channels: int) -> Any:
        calls.append(file)
        return original(file, size, channels)

    monkeypatch.setattr(image_cache, "decode_image", counted)
    return calls


def test_pixels_labels_and_names(tmp_path: Path) -> None:
    tree(tmp_path / "a", {"cat": 3, "dog": 2})
    (tmp_path / "a" / "cat" / "notes.txt").write_text("not an image")
    source = read_source(of(tmp_path))
    assert source.class_names == ("cat", "dog")
    assert source.y.tolist() == [0, 0, 0, 1, 1]
    assert source.bank.x[:, :, 1, 1].tolist() == [[0, 0, 0], [0, 5, 0], [0, 10, 0], [50, 0, 0], [50, 5, 0]]
    assert source.bank.input_shape == (3, 4, 4)
    assert source.official_test is None
    assert source.bank.mean is not None
    assert torch.allclose(source.bank.mean, torch.tensor([20.0, 4.0, 0.0], dtype=torch.float64) / 255)


def test_images_are_cropped_in_the_middle_turned_upright_and_scaled_to_8_bits(tmp_path: Path) -> None:
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (decode_image(tmp_path / "wide.png", 4, 3) == 200).all()
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    half = np.zeros((4, 4), np.uint8)
    half[:2] = 255
    Image.fromarray(half).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(decode_image(tmp_path / "turned.png", 4, 1)[0], half[::-1])
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    assert (decode_image(tmp_path / "deep.png", 4, 1) == 0x80).all()
    Image.fromarray(half).convert("P").save(tmp_path / "palette.gif")
    assert np.array_equal(decode_image(tmp_path / "palette.gif", 4, 3)[1], half)


def test_second_load_decodes_nothing_and_changed_files_are_decoded_again(tmp_path: Path, decoded: list[Path]) -> None:
    tree(tmp_path / "a", {"cat": 2, "dog": 2})
    first = read_source(of(tmp_path))
    again = read_source(of(tmp_path))
    assert len(decoded) == 4
    assert again.digest == first.digest
    assert torch.equal(again.bank.x, first.bank.x)
    read_source(of(tmp_path, image_size=3))
    assert len(decoded) == 8
    save_image(tmp_path / "a" / "cat" / "000.png", (9, 9, 9), (7, 7))
    changed = read_source(of(tmp_path))
    assert len(decoded) == 12
    assert changed.digest != first.digest
    assert changed.bank.x[0].unique().tolist() == [9]


def test_copy_of_a_tree_has_the_same_digest(tmp_path: Path) -> None:
    tree(tmp_path / "a", {"cat": 2, "dog": 2})
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)  # with other times
    assert read_source(of(tmp_path)).digest == read_source(of(tmp_path, "b")).digest


@pytest.mark.parametrize("file", ["x.npy", "y.npy", "meta.json"])
def test_damaged_cache_is_rebuilt(tmp_path: Path, decoded: list[Path], file: str) -> None:
    tree(tmp_path / "a", {"cat": 2, "dog": 2})
    first = read_source(of(tmp_path))
    cached = next((tmp_path / ".cache").glob(f"*/{file}"))
    cached.write_bytes(cached.read_bytes()[:-9])
    assert read_source(of(tmp_path)).digest == first.digest
    assert len(decoded) == 8


def test_concurrent_readers_decode_once(tmp_path: Path, decoded: list[Path]) -> None:
    tree(tmp_path / "a", {"cat": 20, "dog": 20})
    with ThreadPoolExecutor(4) as pool:
        digests = {source.digest for source in pool.map(read_source, [of(tmp_path)] * 4)}
    assert len(digests) == 1
    assert len(decoded) == 40


def test_damaged_image_is_named_and_nothing_is_kept(tmp_path: Path) -> None:
    tree(tmp_path / "a", {"cat": 5, "dog": 5})
    bad = tmp_path / "a" / "dog" / "003.png"
    for content in (bad.read_bytes()[:40], b"", b"text"):
        bad.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"data\.path=a: cannot read {bad} \(.*repair or remove it"):
            read_source(of(tmp_path))
        assert not [entry for entry in (tmp_path / ".cache").iterdir() if entry.is_dir()]
    bad.unlink()
    assert len(read_source(of(tmp_path))) == 9


def test_tree_with_train_and_test_has_its_own_test_set(tmp_path: Path) -> None:
    tree(tmp_path / "a" / "train", {"cat": 12, "dog": 12})
    tree(tmp_path / "a" / "test", {"cat": 3, "dog": 4}, shade=99)
    source = read_source(of(tmp_path))
    assert source.official_test is not None
    assert source.official_test.tolist() == [False] * 24 + [True] * 7
    assert source.bank.mean is not None
    assert float(source.bank.mean[2]) == 0  # not of the test set, which is bluer
    stream = build_stream(split_of(size=10), source, 0)
    assert ids(stream.test.pools[0]) == set(range(24, 31))


def test_two_folders_are_two_data_sets(tmp_path: Path) -> None:
    tree(tmp_path / "a", {"cat": 30, "dog": 20})
    tree(tmp_path / "b", {"cat": 10, "dog": 40}, shade=200)
    source = read_source(of(tmp_path, path2="b"))
    assert source.later[0].bank.mean is source.bank.mean
    stream = build_stream(split_of(sizes=(20, 10)), source, 0)
    assert [part.bank.x[part.rows][:, 2].unique().tolist() for part in stream.train] == [[0], [200]]
    assert [len(pool) for pool in stream.test.pools] == [10, 10]


def test_folder_with_other_classes_is_no_shift(tmp_path: Path) -> None:
    """`split.shift.source` changes the distribution, not the classes."""
    tree(tmp_path / "a", {"cat": 2, "dog": 2})
    tree(tmp_path / "b", {"cat": 2, "cow": 2})
    data = of(tmp_path)
    with pytest.raises(ConfigError, match=r"split\.shift\.source=b: .*it lacks dog; Dataset 1's source lacks cow"):
        load_shift_source("b", data, read_source(data), tmp_path)


def test_folder_as_another_source_adopts_size_and_channels(tmp_path: Path) -> None:
    tree(tmp_path / "a", {"cat": 2, "dog": 2})
    tree(tmp_path / "b", {"cat": 2, "dog": 2}, shade=80)
    data = of(tmp_path, channels=1)
    other = load_shift_source("b", data, read_source(data), tmp_path)
    assert other.bank.input_shape == (1, 4, 4)


def test_read_only_data_root_has_its_cache_elsewhere(tmp_path: Path, decoded: list[Path]) -> None:
    folder = tree(tmp_path / "a", {"cat": 2, "dog": 2})
    root = tmp_path / "root"
    root.write_text("a file, in which no folder can be made")
    data = of(root, str(folder))
    source = read_source(data, tmp_path / "elsewhere")
    assert read_source(data, tmp_path / "elsewhere").digest == source.digest
    assert len(decoded) == 4
    with pytest.raises(ConfigError, match=r"data\.root=.*cannot write .*point data\.root to a writable folder"):
        read_source(data, root / "neither")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"data\.path=a: does not exist"),
        (["a"], r"is not a folder"),
        (["a/0.png"], r"has no class folders"),
        (["a/cat/0.png", "a/dog/0.txt"], r"a/dog holds no image"),
        (["a/train/cat/0.png", "a/train/dog/0.png", "a/test/cat/0.png"], r"same class folders; only one has dog"),
        (["a/train/cat/0.png", "a/test/cat/0.png", "a/more/cat/0.png"], r"has more next to train and test"),
        (
            ["a/train/cat/0.png", "a/test/cat/0.png", "a/val/dog/0.png"],
            r"train and val must have the same class folders",
        ),
    ],
)
def test_unusable_tree_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(ConfigError, match=message):
        read_source(of(tmp_path))


def test_one_class_needs_another_in_dataset_two(tmp_path: Path) -> None:
    tree(tmp_path / "a", {"dog": 5})
    with pytest.raises(ConfigError, match=r"data\.path=a: has one class only, dog; it needs 2 or more"):
        read_source(of(tmp_path))
    tree(tmp_path / "b", {"cat": 5})
    assert read_source(of(tmp_path, path2="b")).class_names == ("dog", "cat")


def test_damaged_images_are_listed_all_at_once_and_may_be_left_out(
    tmp_path: Path, decoded: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tree(tmp_path / "a", {"cat": 3, "dog": 3})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    bad = [tmp_path / "a" / "cat" / "001.png", tmp_path / "a" / "dog" / "002.png"]
    for file in bad:
        file.write_bytes(file.read_bytes()[:40])
        (tmp_path / "b" / file.relative_to(tmp_path / "a")).unlink()
    with pytest.raises(ConfigError, match=rf"{bad[0]} \(.*{bad[1]} \(.*them, or set data\.skip_damaged=true"):
        read_source(of(tmp_path))
    left = read_source(of(tmp_path, skip_damaged=True))
    assert "left out 2 damaged" in capsys.readouterr().err
    assert left.digest == read_source(of(tmp_path, "b")).digest
    decoded.clear()
    assert read_source(of(tmp_path, skip_damaged=True)).digest == left.digest
    assert not decoded
    assert "left out 2 damaged" in capsys.readouterr().err
