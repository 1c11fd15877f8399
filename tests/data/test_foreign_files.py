"""The user's own files: distinguished by content, read completely or refused in one line that names the file and a fix."""

from __future__ import annotations

import io
import os
import socket
import stat
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from src.data import image_cache
from src.data.image_cache import decode_image
from src.data.sources.arrays import ArraysData
from src.data.sources.base import PathConfig
from src.data.sources.image_folder import SPLIT_NAMES, ImageFolderData
from src.errors import ConfigError, foreign_file
from tests.data.samples import read_source


def folder_of(root: Path, path: str = "a") -> ImageFolderData:
    return ImageFolderData(name="image_folder", root=str(root), path=path, path2=None, image_size=4, channels=3)


def arrays_of(root: Path, path: str = "a.npz") -> ArraysData:
    return ArraysData(name="arrays", root=str(root), path=path, path2=None, image_size=None, x_key="x", y_key="y")


def save(file: Path, shade: int = 0, **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), (shade, shade, 9)).save(file, **options)
    return file


def refusal(data: PathConfig) -> str:
    """The one line with which a source is refused."""
    with pytest.raises(ConfigError) as caught:
        read_source(data)
    line = str(caught.value)
    assert line.startswith(f"data.path={data.path}: ")
    assert "\n" not in line
    line.encode()
    return line


def age(*files: Path, seconds: int = 0) -> None:
    for file in files:
        os.utime(file, (seconds, seconds))


# ------------------------------------------------------------------------------------------------ identity


def test_folders_of_equal_names_sizes_and_times_are_told_apart(tmp_path: Path) -> None:
    for number, folder in enumerate("ab"):
        for label, name in enumerate(("cat", "dog")):
            age(*(save(tmp_path / folder / name / f"{k}.bmp", 10 * k + 100 * number + label) for k in range(3)))
    first, second = (read_source(folder_of(tmp_path, folder)) for folder in "ab")
    assert first.digest != second.digest
    assert first.bank.x[:, 0, 1, 1].tolist() == [0, 10, 20, 1, 11, 21]
    assert second.bank.x[:, 0, 1, 1].tolist() == [100, 110, 120, 101, 111, 121]


def rewrite(file: Path) -> None:
    save(file, 77)


def replace(file: Path) -> None:
    os.replace(save(file.with_name("new.bmp"), 77), file)


def link(file: Path) -> None:
    other = save(file.parent.parent.parent / "other.bmp", 77)
    file.unlink()
    file.symlink_to(other)


@pytest.mark.parametrize("vouches", [True, False])
@pytest.mark.parametrize("change", [rewrite, replace, link])
def test_changed_image_of_the_same_size_and_time_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], vouches: bool
) -> None:
    monkeypatch.setattr(image_cache, "_vouches", lambda _: vouches)
    monkeypatch.setattr(image_cache, "SETTLED_NS", -(10**9))  # so that files written now are kept in the index
    files = [save(tmp_path / "a" / name / f"{k}.bmp", k) for name in ("cat", "dog") for k in range(2)]
    age(*files)
    before = read_source(folder_of(tmp_path))
    time.sleep(0.02)  # more than the clock tick of a file system
    change(files[0])
    age(files[0])
    after = read_source(folder_of(tmp_path))
    assert after.digest != before.digest
    assert after.bank.x[0, 0, 1, 1] == 77


def test_index_spares_reading_settled_files_and_distrusts_recent_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = Path.read_bytes

    def reading(path: Path) -> bytes:
        read.extend([path.name] if path.suffix == ".bmp" else [])  # not the index
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", reading)
    monkeypatch.setattr(image_cache, "_vouches", lambda _: True)
    files = [save(tmp_path / "a" / f"{k}.bmp", k) for k in range(3)]

    def digests() -> list[str]:
        return image_cache.file_digests(tmp_path, [(f, f.stat()) for f in files], [tmp_path / "index"], "data.path")

    monkeypatch.setattr(image_cache, "SETTLED_NS", 3600 * 10**9)  # a busy machine takes seconds from here
    first = digests()
    assert (digests(), len(read)) == (first, 6)  # written less than an hour ago
    monkeypatch.setattr(image_cache, "SETTLED_NS", -(10**9))
    assert (digests(), digests(), len(read)) == (first, first, 9)
    (index,) = (tmp_path / "index").iterdir()
    for damaged in ("", "[]", "{"):
        index.write_text(damaged)
        assert digests() == first


def test_file_systems_without_change_times_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {
        1: "5 1 8:1 / /data rw - ext4 /dev/sda1 rw",
        2: "5 1 8:2 / /data rw - vfat /dev/sdb1 rw",
        3: "5 1 8:3 / /data ro - squashfs /dev/loop0 ro",
        4: "5 1 8:4 / /data ro - ext4 /dev/loop1 ro",
        5: "5 1 8:5 / /data ro,bind - ext4 /dev/sda1 rw",
    }
    monkeypatch.setattr(Path, "read_text", lambda _: "\n".join(lines.values()))
    assert [image_cache._vouches(os.makedev(8, k)) for k in range(1, 7)] == [True, False, False, False, True, False]


# ------------------------------------------------------------------------------------------------ layout


@pytest.mark.parametrize("train", ["train", "Training"])
@pytest.mark.parametrize("others", [("val",), ("Validation",), ("dev", "eval"), ("valid", "cats"), ()])
def test_parts_of_a_data_set_are_no_classes_and_the_advice_is_accepted(
    tmp_path: Path, train: str, others: tuple[str, ...]
) -> None:
    for part in (train, *others):
        for name in ("cat", "dog", "owl"):
            save(tmp_path / "a" / part / name / "0.png")
    line = refusal(folder_of(tmp_path))
    assert f"give data.path=a/{train}" in line
    assert read_source(folder_of(tmp_path, f"a/{train}")).class_names == ("cat", "dog", "owl")
    if "name the two train and test" in line:
        (tmp_path / "a" / train).rename(tmp_path / "a" / "train")
        (tmp_path / "a" / others[0]).rename(tmp_path / "a" / "test")
        assert read_source(folder_of(tmp_path)).official_test is not None


def test_a_validation_folder_joins_the_training_data_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, n in (("train", 3), ("val", 2), ("test", 1)):
        for name in ("cat", "dog"):
            for k in range(n):
                save(tmp_path / "a" / part / name / f"{k}.png")
    source = read_source(folder_of(tmp_path))
    assert (source.class_names, source.y.tolist()) == (("cat", "dog"), [0] * 3 + [1] * 3 + [0] * 2 + [1] * 2 + [0, 1])
    assert source.official_test is not None
    assert source.official_test.nonzero().flatten().tolist() == [10, 11]
    assert capsys.readouterr().err == (
        "data.path=a: val joins train, of which split.val holds out a share for each seed\n"
    )


@pytest.mark.parametrize("name", sorted(SPLIT_NAMES))
def test_one_class_may_have_the_name_of_a_part(tmp_path: Path, name: str) -> None:
    for label in (name, "plane"):
        save(tmp_path / "a" / label / "0.png")
    assert read_source(folder_of(tmp_path)).class_names == tuple(sorted((name, "plane")))


def test_skipped_files_are_printed_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        save(tmp_path / "a" / name / "0.png")
    read_source(folder_of(tmp_path))
    assert capsys.readouterr().err == ""
    odd = [save(tmp_path / "a" / "cat" / "deep" / f"{k}.jfif", format="JPEG") for k in range(2)]
    save(tmp_path / "a" / "stray.png")
    for hidden in (".DS_Store", ".thumbs"):
        (tmp_path / "a" / "dog" / hidden).write_text("")
    (tmp_path / "a" / "dog" / "LICENSE").write_text("")
    source = read_source(folder_of(tmp_path))
    line = capsys.readouterr().err
    assert "skipped .jfif (2), .png (1), hidden (2), without suffix (1); images are .bmp, .gif" in line
    for file in odd:
        file.rename(file.with_suffix(".jpg"))
    assert len(read_source(folder_of(tmp_path))) == len(source) + 2


# ------------------------------------------------------------------------------------------------ damaged or foreign files


def bad_exif(folder: Path) -> None:
    """A JPEG whose EXIF has a negative rational where Pillow writes an unsigned one."""
    entry = struct.pack("<HHII", 0x011A, 10, 1, 38) + bytes(4) + struct.pack("<ii", -1, 1)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + struct.pack("<HHII", 0x0112, 3, 1, 6) + entry
    plain = io.BytesIO()
    Image.new("RGB", (8, 8)).save(plain, "JPEG")
    content = plain.getvalue()
    (folder / "cat" / "bad.jpg").write_bytes(
        content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:]
    )


def loop(folder: Path) -> None:
    (folder / "cat" / "again").symlink_to("../cat")


def wide_loop(folder: Path) -> None:
    (folder / "cat" / "deep").mkdir()
    (folder / "cat" / "deep" / "up").symlink_to("../..")


def dangling(folder: Path) -> None:
    (folder / "cat" / "gone.png").symlink_to("nowhere.png")


def to_itself(folder: Path) -> None:
    (folder / "cat" / "self.png").symlink_to("self.png")


def float_tiff(folder: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(folder / "cat" / "float.tif")


def truncated(folder: Path) -> None:
    file = save(folder / "cat" / "1.png")
    file.write_bytes(file.read_bytes()[:50])


def fifo(folder: Path) -> None:
    os.mkfifo(folder / "cat" / "pipe.png")


def listener(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "cat")  # the path of a socket may have about 100 characters
        server.bind("listener.png")


def device(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    os.mknod(folder / "cat" / "zero.png", stat.S_IFCHR | 0o600, os.makedev(1, 5))


def terabyte(folder: Path) -> None:
    with (folder / "cat" / "tera.png").open("wb") as file:
        file.truncate(2**40)


def many_pixels(folder: Path) -> None:
    """A few bytes that declare 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "cat" / "wide.png").write_bytes(content)


FAULTS = {
    fifo: "cat/pipe.png",
    listener: "cat/listener.png",
    device: "cat/zero.png",
    terabyte: "cat/tera.png",
    many_pixels: "cat/wide.png",
    bad_exif: "cat/bad.jpg",
    loop: "cat/again",
    wide_loop: "cat/deep/up",
    dangling: "cat/gone.png",
    to_itself: "cat/self.png",
    float_tiff: "cat/float.tif",
    truncated: "cat/1.png",
}


@pytest.mark.parametrize("plant", FAULTS)
def test_folder_with_a_fault_is_refused_by_the_file_and_readable_without_it(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    for name in ("cat", "dog"):
        save(tmp_path / "a" / name / "0.png")
    plant(tmp_path / "a")
    culprit = tmp_path / "a" / FAULTS[plant]
    line = refusal(folder_of(tmp_path))
    assert str(culprit) in line
    assert "remove" in line
    culprit.unlink()
    assert len(read_source(folder_of(tmp_path))) == 2


def test_class_folder_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a" / "cat" / "0.png")
    latin = save(tmp_path / "a" / os.fsdecode(b"caf\xe9") / "0.png").parent
    line = refusal(folder_of(tmp_path))
    assert "is not UTF-8; rename the folder" in line
    latin.rename(tmp_path / "a" / "café")
    assert read_source(folder_of(tmp_path)).class_names == ("café", "cat")


def test_16_bit_pgm_is_scaled_to_8_bits_and_the_advice_for_wider_pixels_is_accepted(tmp_path: Path) -> None:
    values = np.full((4, 4), 0x8001, ">u2")
    (tmp_path / "deep.pgm").write_bytes(b"P5 4 4 65535\n" + values.tobytes())
    assert (decode_image(tmp_path / "deep.pgm", 4, 1) == 0x80).all()
    wide = Image.fromarray(np.full((4, 4), 70_000, np.int32))
    wide.save(tmp_path / "wide.tif")
    with pytest.raises(ValueError, match="save it with 8 or 16 bits a channel"):
        decode_image(tmp_path / "wide.tif", 4, 1)
    Image.fromarray(np.full((4, 4), 0x7000, np.uint16)).save(tmp_path / "wide.tif")
    assert (decode_image(tmp_path / "wide.tif", 4, 1) == 0x70).all()


@pytest.mark.parametrize("content", ["npy", "pickle", "text", "zip", "folder"])
def test_foreign_file_in_place_of_an_npz_is_refused_and_the_advice_is_accepted(tmp_path: Path, content: str) -> None:
    import pickle
    import zipfile

    file = tmp_path / "a.npz"
    if content == "npy":
        with file.open("wb") as open_file:
            np.save(open_file, np.zeros((3, 4)))
    elif content == "pickle":
        file.write_bytes(pickle.dumps({"x": 1}))
    elif content == "text":
        file.write_text("x,y\n1,2\n")
    elif content == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x.npy", b"no array")
            archive.writestr("y.npy", b"no array")
    else:
        file.mkdir()
    line = refusal(arrays_of(tmp_path))
    assert str(file) in line
    assert "write it with numpy.savez(file, x=..., y=...)" in line
    file.rmdir() if content == "folder" else file.unlink()
    np.savez(file, x=np.zeros((4, 4)), y=np.arange(4) % 2)
    assert len(read_source(arrays_of(tmp_path))) == 4


@pytest.mark.parametrize(
    "error", [struct.error("bad"), KeyError("k"), RecursionError(), MemoryError(), OSError(5, "io"), TypeError("t")]
)
def test_any_exception_of_a_reader_names_key_and_file(error: Exception) -> None:
    message = r"^data\.path=a: cannot read b/c\.png \(.+\); repair it$"
    with pytest.raises(ConfigError, match=message), foreign_file("data.path", "a", Path("b/c.png"), "repair it"):
        raise error
