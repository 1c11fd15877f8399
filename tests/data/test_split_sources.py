"""Where a stream's samples come from: two sources, a source's own test set, real files, every file of conf/data."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from src.config import compose
from src.data.source import Source, make_source, match
from src.data.split import StreamFactory
from src.errors import ConfigError
from tests.data.samples import build_stream, check_split, ids, load_streams, source_of, split_of

ROOT = Path(__file__).parents[2]
SOURCE = source_of([90, 80, 70])


def test_second_source_gives_all_of_dataset_two() -> None:
    other = source_of([50, 50, 50], n_official=10, seed=9)
    second = match(other, SOURCE, "data.path2", "other")
    factory = StreamFactory(split_of(sizes=(30, 60)), SOURCE, second)
    stream = factory.build(4)
    assert ids(stream.train[0]) == ids(build_stream(split_of(sizes=(30, 0)), SOURCE, 4).train[0])
    assert min(ids(stream.train[1])) >= len(SOURCE)
    assert torch.equal(stream.train[1].bank.x[stream.train[1].rows], other.bank.x[stream.train[1].ids - len(SOURCE)])
    assert [len(pool) for pool in stream.test.pools] == [48, 30]
    assert list(stream.test.sets["d2"].weights) == [1]
    mix = {pool: float(weights.sum()) for pool, weights in stream.test.sets["union"].weights.items()}
    assert mix == pytest.approx({0: 1 / 3, 1: 2 / 3})
    assert factory.digest not in (SOURCE.digest, second.digest)
    larger = StreamFactory(split_of(sizes=(30, 90)), SOURCE, second).build(4)
    assert ids(stream.train[1]) < ids(larger.train[1])


def test_class_without_official_test_samples_is_refused() -> None:
    y = torch.tensor([0, 1] * 30)
    source = make_source(torch.zeros(60, 2), y, ("a", "b"), (torch.arange(60) > 40) & (y == 0))
    with pytest.raises(ConfigError, match=r"class b has no sample in the source's own test set.*split\.test=0\.2"):
        check_split(split_of(size=10), source)
    check_split(split_of(size=10, test=0.2), source)


def test_two_sources_are_two_data_sets() -> None:
    second = match(source_of([50, 50, 50], seed=9), SOURCE, "data.path2", "other")
    with pytest.raises(ConfigError, match=r"split\.parts=3"):
        check_split(split_of(parts=3, size=30), SOURCE, second)


@pytest.mark.real_data
def test_mnist_with_its_own_test_set() -> None:
    root = Path(os.environ.get("DATA_ROOT", "")) / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    if not root.exists():
        pytest.skip("DATA_ROOT has no MNIST/raw/*.gz")
    factory = load_streams(compose(["data=mnist", "data.download=false", "split.size=4000"]))
    stream = factory.build(0)
    assert factory.source.bank.x.dtype == torch.uint8
    assert len(stream.test.pools[0]) == 10_000
    assert len(stream.val.pools[0]) == 6_000
    assert min(stream.test.pools[0].ids.tolist()) == 60_000
    assert factory.source.bank.mean is not None
    assert factory.source.bank.mean.tolist() == pytest.approx([0.1307], abs=1e-4)  # torchvision's well-known constants


def test_shift_source_is_dataset_two(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros((200, 12, 12), np.uint8), y=np.arange(200) % 10)
    given = ["split.shift.kind=source", f"split.shift.source={tmp_path / 'other.npz'}", "split.size=100"]
    loaded: dict[object, Source] = {}
    factory = load_streams(compose(given), loaded)
    stream = factory.build(0)
    assert min(stream.train[1].ids) >= len(factory.source)
    assert float(stream.train[1].bank.x.sum()) == 0
    assert stream.train[1].bank.input_shape == (1, 8, 8)
    assert load_streams(compose([*given, "split.ratio=0.5"]), loaded).shift_source is factory.shift_source
    assert factory.digest != load_streams(compose([]), loaded).digest


def test_source_for_dataset_two_is_given_once() -> None:
    source = dataclasses.replace(SOURCE, later=(match(source_of([50, 50, 50], seed=9), SOURCE, "data.path2", "other"),))
    with pytest.raises(ConfigError, match=r"split\.shift\.kind=source: contradicts data\.path2"):
        check_split(split_of(size=30, shift=("source", 0.0)), source)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "data").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_data_file_is_whole_and_opens_with_its_command(path: Path) -> None:
    opening = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("python -m src.sweep" in line for line in opening[:3])
    extra = {"gaussian": ["loss=mse"], "table": ["data.target=y"], "torchvision": ["data.dataset=SVHN"]}
    assert compose([f"data={path.stem}", *extra.get(path.stem, [])]).data.name == path.stem
