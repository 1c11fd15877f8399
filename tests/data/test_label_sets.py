"""Two sources of the user's own whose classes differ: matched by name, one output for every class that either has.

Properties: Dataset 1's classes keep their numbers; each data set is used whole; `d2` has the classes of Dataset 2 alone;
`old` and `new` divide the union by the classes of Dataset 1; spelling mistakes and classes too small to hold anything out
are refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from src.config import compose
from src.data.split import StreamFactory
from src.errors import ConfigError
from tests.data.samples import class_weights, load_streams

RNG = np.random.default_rng(3)


def arrays(file: Path, counts: dict[str, int]) -> Path:
    """Images whose first pixel is the first letter of their class."""
    y = np.repeat(list(counts), list(counts.values()))
    x = RNG.integers(0, 256, (len(y), 4, 4), dtype=np.uint8)
    x[:, 0, 0] = [ord(name[0]) for name in y]
    np.savez(file, x=x, y=y)
    return file


def streams(tmp_path: Path, first: dict[str, int], second: dict[str, int], *overrides: str) -> StreamFactory:
    paths = [arrays(tmp_path / "1.npz", first), arrays(tmp_path / "2.npz", second)]
    given = [f"data.path={paths[0]}", f"data.path2={paths[1]}", f"multirun={tmp_path}"]
    return load_streams(compose(["data=arrays", *given, *overrides]))


def test_new_classes_follow_those_of_dataset_one(tmp_path: Path) -> None:
    factory = streams(tmp_path, {"owl": 50, "dog": 20}, {"cat": 40, "dog": 10, "owl": 10})
    assert factory.class_names == ("dog", "owl", "cat")  # a source's own are sorted
    assert factory.n_outputs == 3
    assert factory.chosen_classes == "Dataset 1: dog, owl; Dataset 2: dog, owl, cat"
    stream = factory.build(0)
    assert stream.class_counts == ((14, 35, 0), (7, 7, 28))  # 0.1 validation, 0.2 test
    for part in stream.train:
        letters = part.bank.x[part.rows][:, 0, 0, 0].tolist()
        assert letters == [ord("doc"[label]) for label in part.y.tolist()]


def test_one_class_first_then_another_too(tmp_path: Path) -> None:
    """The question of 500 dogs, then 100 dogs and 400 cats, a tenth of it."""
    stream = streams(tmp_path, {"dog": 50}, {"cat": 40, "dog": 10}).build(1)
    assert stream.class_counts == ((35, 0), (7, 28))
    weights = {name: class_weights(stream, chosen, stream.test.pools) for name, chosen in stream.test.sets.items()}
    assert weights["d1"] == pytest.approx([1, 0])
    assert weights["d2"] == pytest.approx([0.2, 0.8])
    assert weights["union"] == pytest.approx([42 / 70, 28 / 70])
    assert weights["old"] == pytest.approx([1, 0])
    assert weights["new"] == pytest.approx([0, 1])
    old = stream.test.sets["old"].weights  # of both data sets, as in the union
    assert {pool: float(each.sum()) for pool, each in old.items()} == pytest.approx({0: 35 / 42, 1: 7 / 42})
    assert stream.val.sets.keys() == stream.test.sets.keys()


def test_only_new_classes(tmp_path: Path) -> None:
    stream = streams(tmp_path, {"a": 20, "b": 20}, {"c": 20}).build(0)
    assert stream.class_counts == ((14, 14, 0), (0, 0, 14))
    assert list(stream.test.sets) == ["d1", "d2", "union"]  # old is d1, new is d2


def test_classes_that_dataset_two_lacks_are_not_tested_there(tmp_path: Path) -> None:
    stream = streams(tmp_path, {"a": 20, "b": 20, "c": 20}, {"c": 20, "a": 20}).build(0)
    assert class_weights(stream, stream.test.sets["d2"], stream.test.pools) == pytest.approx([0.5, 0, 0.5])
    assert list(stream.test.sets) == ["d1", "d2", "union"]


def test_sizes_and_subsets_apply_to_the_classes_that_each_has(tmp_path: Path) -> None:
    given = {"a": 60, "b": 60}, {"b": 60, "c": 60}
    stream = streams(tmp_path, *given, "split.size=60", "split.imbalance=5").build(0)
    assert stream.class_counts == ((25, 5, 0), (0, 5, 25))
    stream = streams(tmp_path, *given, "split.classes=[b,c]", "split.size=40").build(0)
    assert stream.class_counts == ((20, 0), (10, 10))
    with pytest.raises(ConfigError, match=r"split\.classes=.*leaves Dataset 2 without a class"):
        streams(tmp_path, {"a": 60, "b": 60}, {"c": 60}, "split.classes=[a,b]", "split.size=40")


def test_equal_classes_have_the_same_identity_as_before(tmp_path: Path) -> None:
    """`split.labels=union` and `same` are checks: the cell's address does not depend on them."""
    plain = streams(tmp_path, {"a": 20, "b": 30}, {"b": 20, "a": 20})
    paths = [f"data.path={tmp_path / '1.npz'}", f"data.path2={tmp_path / '2.npz'}", f"multirun={tmp_path}"]
    for labels in ("same", "union"):
        other = load_streams(compose(["data=arrays", *paths, f"split.labels={labels}"]))
        assert (other.split, other.digest) == (plain.split, plain.digest)
    assert plain.chosen_classes == "a, b"


@pytest.mark.parametrize(
    ("first", "second", "overrides", "problem"),
    [
        ({"cat": 20, "dog": 20}, {"Cat": 20, "dog": 20}, [], r"data\.path2=.*class Cat, Dataset 1 a class cat; spell"),
        ({"a": 20}, {"a": 20}, [], r"data\.path=.*one class only, a; it needs 2"),
        (
            {"a": 20, "b": 20},
            {"a": 20, "c": 20},
            ["split.labels=same"],
            r"split\.labels=same: not every data set has b, c; rename",
        ),
        ({"a": 20, "b": 20}, {"a": 20, "c": 2}, [], r"split\.val=0\.1: Dataset 2 has 2 of class c, which are all held"),
        ({"a": 20, "b": 20}, {"a": 20, "c": 1}, [], r"Dataset 2 has 1 of class c.*add some or remove the class"),
        ({"a": 20, "b": 20}, {"a": 20, "b": 20}, ["split.labels=both"], r"split\.labels=both: must be"),
    ],
)
def test_refused(
    tmp_path: Path, first: dict[str, int], second: dict[str, int], overrides: list[str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        streams(tmp_path, first, second, *overrides)


def test_first_source_without_the_second_is_unchanged(tmp_path: Path) -> None:
    """Its samples, scale and order of draws do not depend on which classes Dataset 2 adds."""
    both = streams(tmp_path, {"a": 20, "b": 20}, {"a": 20, "c": 20}, "split.sizes=[20,10]").build(5)
    same = streams(tmp_path, {"a": 20, "b": 20}, {"a": 20, "b": 20}, "split.sizes=[20,10]").build(5)
    assert torch.equal(both.train[0].ids, same.train[0].ids)
    assert torch.equal(both.train[0].y, same.train[0].y)


def test_data_sets_of_ones_own_arrive_in_turn(tmp_path: Path) -> None:
    """Each is used whole; a class of the third is new; ids go on from one source to the next."""
    given = {"jan": {"a": 20, "b": 20}, "feb": {"b": 30, "a": 10}, "mar": {"a": 10, "c": 40}}
    paths = [str(arrays(tmp_path / f"{name}.npz", counts)) for name, counts in given.items()]
    overrides = ["data=arrays", f"data.paths=[{','.join(paths)}]", f"multirun={tmp_path}"]
    with pytest.raises(ConfigError, match=r"split\.parts=2: data\.paths lists 3 data sets; set split\.parts=3"):
        compose(overrides)
    factory = load_streams(compose([*overrides, "split.parts=3"]))
    assert factory.chosen_classes == "Dataset 1: a, b; Dataset 2: a, b; Dataset 3: a, c"
    stream = factory.build(0)
    assert stream.class_counts == ((14, 14, 0), (7, 21, 0), (7, 0, 28))
    assert [ids.min() // 40 for part in stream.train for ids in [part.ids.numpy()]] == [0, 1, 2]
    assert list(stream.test.sets) == ["d1", "d2", "d3", "union", "old", "new"]
    for problem, more in (("data.path2=x", "data.path2=x"), ("must list two", f"data.paths=[{paths[0]}]")):
        with pytest.raises(ConfigError, match=problem):
            compose([*overrides, "split.parts=3", more])


def test_two_regressions_are_used_whole_too(tmp_path: Path) -> None:
    for name, n in (("1.npz", 100), ("2.npz", 20)):
        np.savez(tmp_path / name, x=RNG.normal(size=(n, 3)), y=RNG.normal(size=n))
    paths = [f"data.path={tmp_path / '1.npz'}", f"data.path2={tmp_path / '2.npz'}", f"multirun={tmp_path}"]
    factory = load_streams(compose(["data=arrays", "loss=mse", *paths]))
    assert factory.split.sizes == (70, 14)
    assert [len(part) for part in factory.build(0).train] == [70, 14]
