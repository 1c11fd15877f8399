"""A source is read completely and correctly, or refused.

Properties: digits equal scikit-learn's; images come out standardised; the Gaussian teacher can be recovered and larger
draws begin with smaller ones; every layout of arrays is equivalent; the digest names content; a second source takes the
shape, type, scale and class numbers of the first; errors name the file, what is wrong and the fix.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from src.config import compose
from src.data.source import Source, make_source, match
from src.data.sources.arrays import ArraysData
from src.data.sources.base import SourceConfig
from src.data.sources.catalog import SOURCES, load_shift_source
from src.data.sources.digits import DigitsData
from src.data.sources.gaussian import GaussianData
from src.data.split import load
from src.errors import ConfigError
from tests.data.samples import read_source, source_of, split_of

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 3, 6, 5), dtype=np.uint8)
LABELS = np.arange(12) % 3
CACHE = Path("unused")


def arrays(folder: Path, path2: str | None = None, **given: Any) -> ArraysData:
    chosen: dict[str, Any] = {"image_size": None, "x_key": "x", "y_key": "y", "path": "a.npz"} | given
    return ArraysData(name="arrays", root=str(folder), path2=path2, **chosen)


def gaussian(**given: Any) -> GaussianData:
    chosen: dict[str, Any] = {"dim": 6, "n_samples": 50, "noise": 0.0, "target": "regression", "n_classes": 4}
    chosen |= {
        "draw": "pool",
        "target_shift": 0.0,
        "weights": None,
        "covariances": None,
        "rank": None,
        "angle": 0.0,
    } | given
    return GaussianData(name="gaussian", root="data", **chosen)


def saved(folder: Path, name: str = "a.npz", **content: Any) -> Path:
    np.savez(folder / name, **content)
    return folder


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    source = read_source(DigitsData(name="digits", root="data"))
    oracle = load_digits()
    assert np.array_equal(source.bank.x.numpy().reshape(-1, 64) * 16, oracle.data)
    assert np.array_equal(source.y.numpy(), oracle.target)
    assert source.class_names == tuple(str(name) for name in oracle.target_names)
    assert source.bank.x.dtype == torch.float32
    scaled = source.bank.scale(source.bank.x, torch.float64)
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-6)
    assert float(scaled.std(correction=0)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_images_are_standardised_with_statistics_outside_the_test_set(dtype: torch.dtype) -> None:
    source = source_of([40, 30], n_official=10, dtype=dtype)
    assert source.official_test is not None
    scaled = source.bank.scale(source.bank.x, torch.float64)[~source.official_test]
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-6)
    assert float(scaled.std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_constant_channel_can_be_scaled() -> None:
    source = make_source(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ("a", "b"))
    assert torch.isfinite(source.bank.scale(source.bank.x)).all()


def test_gaussian_regression_is_linear() -> None:
    source = read_source(gaussian())
    assert source.bank.x.dtype == source.y.dtype == torch.float64
    assert source.y.shape == (50, 1)
    found = torch.linalg.lstsq(source.bank.x, source.y).solution.numpy()
    weights = gaussian().true_weights()
    assert np.allclose(found, weights)
    assert np.linalg.norm(weights) == pytest.approx(1)


def test_gaussian_noise_and_nesting() -> None:
    noiseless, noisy, more = (read_source(gaussian(**given)) for given in ({}, {"noise": 0.5}, {"n_samples": 4000}))
    assert torch.equal(noiseless.bank.x, noisy.bank.x)
    assert float((noisy.y - noiseless.y).std()) == pytest.approx(0.5, rel=0.3)
    assert torch.equal(more.bank.x[:50], noiseless.bank.x)
    assert torch.allclose(more.y[:50], noiseless.y)
    assert len({noiseless.digest, noisy.digest, more.digest}) == 3
    assert float(more.bank.x.std()) == pytest.approx(1, abs=0.02)


def test_gaussian_classes_are_the_largest_output() -> None:
    data = gaussian(target="classification")
    source = read_source(data)
    outputs = source.bank.x.numpy() @ data.true_weights()
    assert np.array_equal(source.y.numpy(), outputs.argmax(1))
    assert source.class_names == ("0", "1", "2", "3")


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "int64"])
def test_layouts_of_images_mean_the_same(tmp_path: Path, layout: str) -> None:
    x = {"nchw": IMAGES, "nhwc": IMAGES.transpose(0, 2, 3, 1), "int64": IMAGES.astype(np.int64)}[layout]
    source = read_source(arrays(saved(tmp_path, x=x, y=LABELS)))
    assert np.array_equal(source.bank.x.numpy(), IMAGES)
    assert source.bank.x.dtype == torch.uint8
    assert source.class_names == ("0", "1", "2")


def test_grey_images_features_texts_and_targets(tmp_path: Path) -> None:
    names = np.array(["dog", "cat", "dog", "emu"] * 3)
    grey = read_source(arrays(saved(tmp_path, x=IMAGES[:, 0], y=names)))
    assert grey.bank.input_shape == (1, 6, 5)
    assert grey.class_names == ("cat", "dog", "emu")
    assert grey.y.tolist()[:4] == [1, 0, 1, 2]
    features = read_source(arrays(saved(tmp_path, "f.npz", x=RNG.normal(size=(12, 4)), y=[3, 9] * 6), path="f.npz"))
    assert (features.bank.mean, features.class_names, features.y.tolist()[:2]) == (None, ("3", "9"), [0, 1])
    targets = read_source(arrays(saved(tmp_path, "t.npz", x=IMAGES, y=RNG.normal(size=(12, 2))), path="t.npz"))
    assert (targets.class_names, targets.n_outputs) == (None, 2)


def test_arrays_of_a_folder_and_of_columns_are_those_of_an_archive(tmp_path: Path) -> None:
    y = np.array(["dog", "cat", "emu"] * 4)
    for x in (RNG.normal(size=(12, 4)), RNG.normal(size=(12, 3, 3))):
        archive = read_source(arrays(saved(tmp_path, x=x, y=y)))
        (tmp_path / "a").mkdir(exist_ok=True)
        np.save(tmp_path / "a" / "x.npy", x)
        np.save(tmp_path / "a" / "y.npy", y)
        pd.DataFrame({"x": x.tolist(), "y": y}).to_parquet(tmp_path / "a.parquet")
        for path in ("a", "a.parquet"):
            assert read_source(arrays(tmp_path, path=path)).digest == archive.digest


def test_images_are_resized_on_request(tmp_path: Path) -> None:
    flat = np.full((4, 8, 8), 200, np.uint8)
    source = read_source(arrays(saved(tmp_path, x=flat, y=[0, 1, 0, 1]), image_size=3))
    assert source.bank.x.shape == (4, 1, 3, 3)
    assert (source.bank.x == 200).all()


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"images": IMAGES, "y": LABELS}, {}, r"has no array x; set data\.x_key to one of images, y"),
    ({"x": IMAGES, "labels": LABELS}, {}, r"has no array y; set data\.y_key to one of x, labels"),
    ({"x": IMAGES, "y": LABELS[:5]}, {}, r"as many rows"),
    ({"x": np.float32(3), "y": LABELS}, {}, r"as many rows"),
    ({"x": np.full((12, 4), np.nan), "y": LABELS}, {}, r"not finite"),
    ({"x": IMAGES.astype(np.int64) * 9, "y": LABELS}, {}, r"store them as 0\.\.255"),
    ({"x": np.zeros((12, 5, 6, 7)), "y": LABELS}, {}, r"channels"),
    ({"x": np.zeros((12, 5, 6, 7, 8)), "y": LABELS}, {}, r"store \[n, h, w\]"),
    ({"x": np.array([{}] * 12), "y": LABELS}, {}, r"plain arrays"),
    ({"x": IMAGES, "y": LABELS * 0}, {}, r"one class only"),
    ({"x": IMAGES, "y": np.eye(12, dtype=int)}, {}, r"one whole number or text a row"),
    ({"x": np.zeros((12, 4)), "y": LABELS}, {"image_size": 8}, r"data\.image_size=8: has no effect"),
]


@pytest.mark.parametrize(("content", "given", "message"), BAD)
def test_unusable_arrays_are_refused(
    tmp_path: Path, content: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_source(arrays(saved(tmp_path, **content), **given))
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"data\.path=a\.npz: does not exist .*{tmp_path}/a\.npz"):
        read_source(arrays(tmp_path))
    file = saved(tmp_path, x=IMAGES, y=LABELS) / "a.npz"
    whole = file.read_bytes()
    for damaged in (whole[:200], b"", b"text", whole[:150] + bytes(40) + whole[190:]):
        file.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"cannot read .*a\.npz"):
            read_source(arrays(tmp_path))


def test_digest_names_the_content(tmp_path: Path) -> None:
    def digest(**content: Any) -> str:
        return read_source(arrays(saved(tmp_path, **content))).digest

    pixel = IMAGES.copy()
    pixel[3, 1, 2, 2] ^= 1
    first = digest(x=IMAGES, y=LABELS)
    assert first == digest(x=IMAGES.transpose(0, 2, 3, 1), y=LABELS.astype(np.uint8))
    others = [digest(x=pixel, y=LABELS), digest(x=IMAGES, y=LABELS[::-1]), digest(x=IMAGES, y=LABELS + 1)]
    assert len({first, *others}) == 4


def test_second_file_adopts_class_numbers_and_scale_of_the_first(tmp_path: Path) -> None:
    saved(tmp_path, x=IMAGES, y=np.array(["b", "a", "c"] * 4))
    saved(tmp_path, "b.npz", x=IMAGES // 2, y=np.array(["c", "b", "a"] * 4))
    source = read_source(arrays(tmp_path, "b.npz"))
    assert source.later[0].y.tolist()[:3] == [2, 1, 0]
    assert source.later[0].bank.mean is source.bank.mean
    saved(tmp_path, "b.npz", x=IMAGES, y=np.array(["c", "b", "z"] * 4))
    source = read_source(arrays(tmp_path, "b.npz"))
    assert source.class_names == ("a", "b", "c", "z")
    assert source.later[0].y.tolist()[:3] == [2, 1, 3]


def test_shift_source_is_brought_into_the_first_ones_form(tmp_path: Path) -> None:
    data = DigitsData(name="digits", root=str(tmp_path))
    digits = read_source(data)
    x = np.zeros((20, 16, 16, 3), np.uint8)
    x[..., 0], x[..., 1] = 255, 51
    saved(tmp_path, "other.npz", x=x, y=np.arange(20) % 10)
    other = load_shift_source("other.npz", data, digits, CACHE)
    assert (other.bank.x.dtype, other.bank.input_shape) == (torch.float32, (1, 8, 8))
    grey = round(255 * 0.299 + 51 * 0.587) / 255
    assert torch.allclose(other.bank.x, torch.tensor(grey), atol=1e-6)
    assert other.bank.std is digits.bank.std


def test_digits_become_bytes_in_colour() -> None:
    first = make_source(torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8), torch.arange(20) % 10, DIGITS)
    other = load_shift_source("digits", DigitsData(name="digits", root="data"), first, CACHE)
    assert (other.bank.x.dtype, other.bank.input_shape) == (torch.uint8, (3, 4, 4))
    assert torch.equal(other.bank.x[:, 0], other.bank.x[:, 2])


DIGITS = tuple(str(digit) for digit in range(10))


def features(n_columns: int, targets: int | None = None) -> Source:
    x = torch.zeros(6, n_columns)
    return make_source(x, torch.arange(6) % 2, ("a", "b")) if targets is None else make_source(x, x[:, :targets], None)


@pytest.mark.parametrize(
    ("second", "first", "message"),
    [
        (features(3), features(4), "another shape"),
        (features(4, 1), features(4), "another kind"),
        (features(4, 2), features(4, 1), "another kind"),
        (source_of([3, 3], dtype=torch.float64), features(16), "another shape"),
        (make_source(torch.zeros(4, 4, 4, 4), torch.arange(4) % 2, ("a", "b")), source_of([3, 3]), "grey or RGB"),
        (make_source(torch.ones(4, 1, 4, 4) * 9, torch.arange(4) % 2, ("a", "b")), source_of([3, 3]), "within 0..1"),
    ],
)
def test_sources_that_cannot_agree_are_refused(second: Source, first: Source, message: str) -> None:
    with pytest.raises(ConfigError, match=f"split.shift.source=x: .*{message}"):
        match(second, first, "split.shift.source", "x")


@pytest.mark.parametrize("name", list(SOURCES))
def test_every_source_of_the_catalog_composes_and_declares_settings_that_it_has(name: str) -> None:
    cls = SOURCES[name]
    data = compose([f"data={name}", *cls.needs]).data
    assert type(data) is cls
    assert data.name == name
    assert cls.where <= {f.name for f in dataclasses.fields(cls)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stripes(SourceConfig):
    """A source from outside src: vertical or horizontal stripes."""

    n: int

    def load(self, cache: Path) -> Source:
        del cache
        x = torch.zeros(self.n, 1, 8, 8)
        x[::2, :, ::2], x[1::2, :, :, ::2] = 1, 1
        return make_source(x, torch.arange(self.n) % 2, ("horizontal", "vertical"))

    @classmethod
    def as_shift(cls, value: str, data: SourceConfig, first: Source) -> SourceConfig:
        del first
        return cls(name=value, root=data.root, n=40)


def test_source_from_outside_src_serves_both_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "stripes", Stripes)
    data = Stripes(name="stripes", root="data", n=60)
    assert not data.is_regression
    factory = load(data, split_of(size=40), CACHE)
    assert [len(part) for part in factory.build(0).train] == [20, 20]
    assert len(load_shift_source("stripes", data, factory.source, CACHE)) == 40
    with pytest.raises(ConfigError, match=r"split\.shift\.source=gaussian: is a folder|does not exist"):
        load_shift_source("gaussian", data, factory.source, CACHE)
