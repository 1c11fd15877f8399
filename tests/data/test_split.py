"""A stream is what the definitions say, for every split.

Properties: training, validation and test samples are disjoint; counts are as requested; weights sum to 1 and give each set
its priors; the i.i.d. union is the same at every ratio; subsets nest; held-out sets depend on the seed alone; equal
arguments give equal streams, in another process too; what is not possible is refused with key and fix.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config import compose
from src.data.draw import divide
from src.data.source import Source, make_source
from src.data.sources.digits import DigitsData
from src.data.split import StreamFactory, load
from src.data.split_config import SplitConfig
from src.errors import ConfigError
from tests.data.samples import (
    build_stream,
    check_split,
    class_weights,
    ids,
    load_streams,
    source_of,
    split_of,
    union_ids,
)

ROOT = Path(__file__).parents[2]
SOURCE = source_of([90, 80, 70])
OFFICIAL = source_of([90, 80, 70], n_official=20)


@given(
    size=st.integers(20, 80),
    ratio=st.floats(0.25, 4),
    imbalance=st.sampled_from([1.0, 2.0, 3.0]),
    opposed=st.booleans(),
    seed=st.integers(0, 50),
    has_official=st.booleans(),
    shift=st.sampled_from([("none", 0.0), ("permute", 0.5), ("relabel", 1.0), ("noise", 0.1)]),
)
@settings(max_examples=60, deadline=None)
def test_stream_is_well_formed(
    size: int, ratio: float, imbalance: float, opposed: bool, seed: int, has_official: bool, shift: tuple[str, float]
) -> None:
    source = OFFICIAL if has_official else SOURCE
    split = split_of(size=size, ratio=ratio, imbalance=imbalance, opposed=opposed, shift=shift)
    stream = build_stream(split, source, seed)
    assert tuple(len(part) for part in stream.train) == split.dataset_sizes()
    assert len(union_ids(stream)) == size
    test, val = (set().union(*(ids(pool) for pool in held.pools)) for held in (stream.test, stream.val))
    assert not union_ids(stream) & test
    assert not union_ids(stream) & val
    assert not test & val
    if has_official:
        assert source.official_test is not None
        assert test == set(torch.nonzero(source.official_test).flatten().tolist())
    for part, counts in zip(stream.train, stream.class_counts, strict=True):
        assert torch.bincount(part.y, minlength=3).tolist() == list(counts)
        assert part.ids.tolist() == sorted(ids(part))
    assert stream.imbalance == max(stream.class_counts[0]) / min(stream.class_counts[0])
    for held in (stream.val, stream.test):
        assert list(held.sets) == ["d1", "d2", "union"]
        for evaluation in held.sets.values():
            assert sum(float(w.sum()) for w in evaluation.weights.values()) == pytest.approx(1, abs=1e-12)
            assert all(len(w) == len(held.pools[pool]) for pool, w in evaluation.weights.items())
        for number, counts in enumerate(stream.class_counts):
            expected = np.array(counts) / sum(counts)
            assert class_weights(stream, held.sets[f"d{number + 1}"], held.pools) == pytest.approx(expected)
        mixed = np.sum(stream.class_counts, axis=0) / size
        assert class_weights(stream, held.sets["union"], held.pools) == pytest.approx(mixed)


@given(st.integers(0, 20), st.integers(6, 120), st.floats(0.1, 10))
@settings(max_examples=60, deadline=None)
def test_iid_union_is_the_same_at_every_ratio(seed: int, size: int, ratio: float) -> None:
    n_second = min(max(round(size * ratio / (1 + ratio)), 3), size - 3)
    whole = build_stream(split_of(sizes=(size, 0)), SOURCE, seed)
    divided = build_stream(split_of(sizes=(size - n_second, n_second)), SOURCE, seed)
    assert union_ids(divided) == union_ids(whole)


@given(st.integers(0, 20), st.integers(6, 60), st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_iid_unions_nest(seed: int, size: int, more: int) -> None:
    small, large = (build_stream(split_of(size=n), SOURCE, seed) for n in (size, size + more))
    assert union_ids(small) <= union_ids(large)


@pytest.mark.parametrize("imbalance", [1.0, 4.0])
def test_each_data_set_nests_where_its_share_of_every_class_stays(imbalance: float) -> None:
    small, large = (
        build_stream(split_of(sizes=(k * 42, k * 21), imbalance=imbalance), SOURCE, 3) for k in (1, 2)
    )  # at imbalance 4 that is k times 24, 12, 6 and 3, 6, 12
    for part in range(2):
        assert ids(small.train[part]) < ids(large.train[part])


def test_division_by_hand() -> None:
    order = np.arange(10, 16)  # the last sample is not requested
    assert [part.tolist() for part in divide(order, [3, 2])] == [[10, 11, 13], [12, 14]]
    assert [part.tolist() for part in divide(order, [5, 0])] == [[10, 11, 12, 13, 14], []]
    thirds = divide(order, [2, 2, 2])  # the last takes 12 and 15; the second takes every other one of the rest
    assert [part.tolist() for part in thirds] == [[10, 13], [11, 14], [12, 15]]


def test_division_is_exact_where_floating_point_is_not() -> None:
    for n_second in range(1, 50):
        first, second = divide(np.arange(49), [49 - n_second, n_second])
        assert (len(first), len(second)) == (49 - n_second, n_second)
        prefix_counts = np.searchsorted(second, np.arange(1, 50))  # of the first i samples, floor(i f) are in Dataset 2
        assert prefix_counts.tolist() == [i * n_second // 49 for i in range(1, 50)]


def test_held_out_sets_depend_on_the_seed_alone() -> None:
    splits = [split_of(size=30), split_of(size=90, ratio=0.2, imbalance=5.0), split_of(size=60, label_noise=0.5)]
    streams = [build_stream(split, SOURCE, 7) for split in splits]
    for held in ("val", "test"):
        pools = [getattr(stream, held).pools[0].digest for stream in streams]
        assert len(set(pools)) == 1
    other = build_stream(splits[0], SOURCE, 8)
    assert ids(other.test.pools[0]) != ids(streams[0].test.pools[0])


def test_empty_second_data_set_has_no_evaluation_set() -> None:
    stream = build_stream(split_of(sizes=(30, 0), shift=("permute", 1.0)), SOURCE, 0)
    assert list(stream.test.sets) == ["d1", "union"]
    assert len(stream.test.pools) == 1
    assert torch.equal(stream.test.sets["d1"].weights[0], stream.test.sets["union"].weights[0])


def test_weights_by_hand() -> None:
    source = source_of([20, 40])
    stream = build_stream(split_of(sizes=(4, 8), priors=((0.75, 0.25), (0.25, 0.75))), source, 0)
    pool = stream.test.pools[0]
    assert torch.bincount(pool.y).tolist() == [4, 8]  # a fifth of each class
    first, second, union = (stream.test.sets[name].weights[0] for name in ("d1", "d2", "union"))
    assert first.dtype == torch.float64
    assert torch.allclose(first, torch.tensor([3 / 4 / 4, 1 / 4 / 8], dtype=torch.float64)[pool.y])
    assert torch.allclose(second, torch.tensor([2 / 8 / 4, 6 / 8 / 8], dtype=torch.float64)[pool.y])
    assert torch.allclose(union, (4 * first + 8 * second) / 12)


def test_flat_class_subset_is_renumbered_as_listed() -> None:
    factory = StreamFactory(split_of(size=20, classes=("c", "a")), SOURCE)
    stream = factory.build(0)
    assert (stream.n_outputs, factory.class_names) == (2, ("c", "a"))
    for samples in (*stream.train, *stream.test.pools):
        assert torch.equal(SOURCE.y[samples.ids], torch.tensor([2, 0])[samples.y])


def test_class_subset_of_each_data_set_keeps_the_numbers_of_the_source() -> None:
    stream = build_stream(split_of(size=40, classes=(("a", "c"), ("b",))), SOURCE, 0)
    assert stream.class_counts == ((10, 0, 10), (0, 20, 0))
    assert stream.n_outputs == 3
    assert stream.imbalance is None
    assert class_weights(stream, stream.test.sets["d2"], stream.test.pools) == pytest.approx([0, 1, 0])
    assert class_weights(stream, stream.test.sets["union"], stream.test.pools) == pytest.approx([0.25, 0.5, 0.25])


def labelled(names: Sequence[str], *, are_numbered: bool = False) -> Source:
    """A source of 12 samples of each named class."""
    source = source_of([12] * len(names))
    return dataclasses.replace(source, class_names=tuple(names), are_numbered=are_numbered)


TEXT_ORDER = sorted(str(number) for number in range(1, 13))


@pytest.mark.parametrize(
    ("names", "are_numbered", "given_classes", "chosen", "stored"),
    [
        (TEXT_ORDER, False, (1, 2), ("1", "2"), (1, 2)),
        (TEXT_ORDER, False, ("2", 12), ("2", "12"), (2, 12)),
        (TEXT_ORDER, False, ((1, 12), (2,)), None, ((1, 12), (2,))),
        (("-1", "1"), False, (1, -1), ("1", "-1"), (1, -1)),
        (("01", "02", "1"), False, ("01", 1), ("01", "1"), ("01", 1)),
        (("cat", "dog", "owl"), False, ("owl", "cat"), ("owl", "cat"), ("owl", "cat")),
        (("cat", "dog", "owl"), True, ("owl", 0), ("owl", "cat"), (2, 0)),
    ],
)
def test_classes_are_chosen_by_label_or_name(
    names: Sequence[str],
    are_numbered: bool,
    given_classes: Any,
    chosen: tuple[str, ...] | None,
    stored: Any,
) -> None:
    source = labelled(names, are_numbered=are_numbered)
    data = DigitsData(name="digits", root="data")
    factory = load(data, split_of(size=8, classes=given_classes), Path("unused"), {data: source})
    assert factory.split.classes == stored
    again = load(data, factory.split, Path("unused"), {data: source})
    assert again.split == factory.split
    assert again.numbered_split == factory.numbered_split
    if chosen is None:
        assert factory.chosen_classes == "Dataset 1: 1, 12; Dataset 2: 2"
    else:
        assert factory.class_names == chosen
        assert factory.chosen_classes == ", ".join(chosen)
        assert factory.numbered_split.classes == tuple(list(names).index(name) for name in chosen)
        for samples in factory.build(0).train:
            assert {names[k] for k in source.y[samples.ids].tolist()} <= set(chosen)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((0, 1), "there is no class 0; there are cat, dog, owl"),
        (("cat", "Dog"), "there is no class Dog; there are cat"),
    ],
)
def test_position_or_misspelt_name_is_no_class_and_the_listed_ones_are(classes: Any, message: str) -> None:
    source = labelled(("cat", "dog", "owl"))
    with pytest.raises(ConfigError, match=message):
        check_split(split_of(size=8, classes=classes), source)
    check_split(split_of(size=8, classes=("cat", "dog", "owl")), source)


@pytest.mark.parametrize("per_class", [(60, 60, 1), (60, 60, 2), (60, 60, 3), (60, 4, 4), (5, 5, 5), (1, 1, 60)])
@pytest.mark.parametrize("given_split", [{}, {"size": 40}, {"sizes": (30, 30)}, {"size": 60, "imbalance": 5.0}])
def test_every_suggested_fix_of_a_scarce_class_is_accepted(
    per_class: tuple[int, ...], given_split: dict[str, Any]
) -> None:
    source, split = source_of(per_class), split_of(**given_split)
    try:
        check_split(split, source)
    except ConfigError as error:
        line = str(error)
    else:
        return
    fixes: dict[str, Callable[[str], dict[str, Any]]] = {
        r"lower split\.size to at most (\d+)": lambda found: {"size": int(found)},
        "lower (split.imbalance)": lambda _: {"imbalance": 1.0},
        "(hold out less)": lambda _: {"val": 1e-9, "test": 1e-9},
        r"split\.classes=(\[.*?\])": lambda found: {"classes": tuple(json.loads(found))},
    }
    suggested = {pattern: match[1] for pattern in fixes if (match := re.search(pattern, line))}
    assert suggested or "add samples" in line, line
    for pattern, text in suggested.items():
        check_split(dataclasses.replace(split, **fixes[pattern](text)), source)


def test_class_with_prior_zero_is_excluded() -> None:
    stream = build_stream(split_of(size=40, priors=((0.5, 0.5, 0), (0.25, 0.75, 0))), SOURCE, 0)
    assert stream.class_counts == ((10, 10, 0), (5, 15, 0))
    assert stream.imbalance is None
    assert 2 not in stream.test.pools[0].y


def test_classes_that_share_labels_keep_their_own_weights() -> None:
    """Even and odd: two outputs, the same samples as without, and every set weighs classes, not labels."""
    source = source_of([40, 60, 50, 80])
    pairs = {"size": 60, "classes": (("a", "b"), ("c", "d"))}
    own, shared = (build_stream(split_of(**pairs, **more), source, 0) for more in ({}, {"labels": (0, 1, 0, 1)}))
    assert (own.n_outputs, shared.n_outputs) == (4, 2)
    assert shared.class_counts == ((15, 15), (15, 15))
    for alone, together in zip(own.train, shared.train, strict=True):
        assert torch.equal(alone.ids, together.ids)
        assert torch.equal(alone.y % 2, together.y)
    pool = shared.test.pools[0]
    assert torch.equal(torch.from_numpy(pool.groups), own.test.pools[0].y)
    for name in ("d1", "d2", "union"):
        assert torch.equal(shared.test.sets[name].weights[0], own.test.sets[name].weights[0])
    assert float(shared.test.sets["d1"].weights[0][pool.groups >= 2].sum()) == 0
    factory = StreamFactory(split_of(**pairs, labels=(0, 1, 0, 1)), source)
    assert (factory.class_names, factory.n_outputs) == (("a/c", "b/d"), 2)


def test_a_label_without_a_class_of_the_stream_keeps_its_output() -> None:
    """`split.classes` leaves out both classes of label 1; those of label 2 are still below the number of outputs."""
    source = labelled(tuple("abcdef"), are_numbered=True)
    split = split_of(size=32, labels=(0, 0, 1, 1, 2, 2), classes=(0, 1, 4, 5))
    stream = build_stream(split, source, 0)
    assert stream.n_outputs == StreamFactory(split, source).n_outputs == 3
    assert stream.class_counts == ((8, 0, 8), (8, 0, 8))


def test_noise_in_shared_labels_gives_the_other_label() -> None:
    source = source_of([60, 60, 60])
    plain, noisy = (build_stream(split_of(size=80, labels=(0, 1, 1), label_noise=n), source, 0) for n in (0.0, 0.4))
    y, wrong = plain.train[0].y, noisy.train[0].y
    assert 4 < int((y != wrong).sum()) < 36
    assert set(wrong.tolist()) == {0, 1}


def test_regression_has_sizes_only() -> None:
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.normal(size=(100, 5))), torch.from_numpy(rng.normal(size=(100, 1)))
    source = make_source(x, y, None)
    stream = build_stream(split_of(sizes=(40, 20)), source, 0)
    assert (stream.class_counts, stream.imbalance, stream.n_outputs) == (((), ()), None, 1)
    assert torch.equal(stream.train[1].y, y[stream.train[1].ids])
    assert torch.equal(stream.train[1].inputs(torch.float64), x[stream.train[1].ids])
    assert torch.allclose(stream.test.sets["d2"].weights[0], torch.full((20,), 1 / 20, dtype=torch.float64))
    for key, value in [("imbalance", 2.0), ("priors", ((1.0,), (1.0,))), ("classes", (0, 1)), ("label_noise", 0.1)]:
        with pytest.raises(ConfigError, match=rf"split\.{key}=.*regression"):
            check_split(split_of(sizes=(40, 20), **{key: value}), source)
    with pytest.raises(ConfigError, match="needs classes"):
        check_split(split_of(size=20, shift=("relabel", 0.5)), source)
    with pytest.raises(ConfigError, match="needs images"):
        check_split(split_of(size=20, shift=("rotate", 5.0)), source)


@pytest.mark.parametrize(
    ("given_split", "words"),
    [
        ({"labels": (0, 1)}, ["split.labels=[0, 1]", "each of the source's"]),
        ({"classes": ("a", 1)}, ["split.classes", "no class 1; there are a, b, c"]),
        ({"classes": ("b",)}, ["split.classes", "2 or more"]),
        ({"classes": (("a", "b"), ("c",)), "priors": ((1.0, 0, 0), (1.0, 0, 0))}, ["split.classes", "contradicts"]),
        ({"priors": ((0.5, 0.5), (0.5, 0.5))}, ["split.priors", "2 shares for 3 classes"]),
        ({"sizes": (30, 2)}, ["split.sizes=[30, 2]", "Dataset 2 would have 2 samples for 3 classes"]),
        ({"size": 4000}, ["split.size=4000", "lower split.size to at most"]),
        ({"size": 140, "imbalance": 9.0}, ["at most 129 or lower split.imbalance"]),
        ({"sizes": (20, 20), "val": 0.5, "test": 0.45}, ["split.sizes", "hold out less"]),
    ],
)
def test_impossible_split_is_refused_with_key_and_fix(given_split: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_split(split_of(**given_split), SOURCE)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


DIGESTS = """
from src.config import compose
from tests.data.samples import load_streams
loaded = {}
for overrides in OVERRIDES:
    factory = load_streams(compose(overrides), loaded)
    print(factory.digest, factory.build(0).digest, factory.build(5).digest)
"""
OVERRIDES: list[list[str]] = [
    [],
    ["split.imbalance=20", "split.label_noise=0.2"],
    ["split=permuted"],
    ["split.shift.kind=noise", "split.shift.amount=0.3"],
    ["split=relabelled"],
    ["data=gaussian", "arch=linear", "loss=mse"],
]


def test_streams_are_the_same_in_another_process() -> None:
    loaded: dict[object, Source] = {}
    here = []
    for overrides in OVERRIDES:
        factory = load_streams(compose(overrides), loaded)
        here.append(f"{factory.digest} {factory.build(0).digest} {factory.build(5).digest}")
    assert len({line.split()[1] for line in here}) == len(OVERRIDES)
    assert len(loaded) == 2  # the digits were read once
    there = subprocess.run(
        [sys.executable, "-c", DIGESTS.replace("OVERRIDES", repr(OVERRIDES))],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.splitlines() == here


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "split").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_split_file_is_whole_and_opens_with_its_command(path: Path) -> None:
    opening = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("python -m src.sweep" in line for line in opening[:3])
    split = compose([f"split={path.stem}"]).split
    assert isinstance(split, SplitConfig)
    check_split(split, dataclasses.replace(source_of([6500] * 10, side=2), are_numbered=True))
