"""A shift and label noise change what they say of Dataset 2, or of the labels, and nothing else of the stream."""

from __future__ import annotations

import pytest
import torch

from tests.data.samples import build_stream, source_of, split_of, union_ids

SOURCE = source_of([90, 80, 70])


@pytest.mark.parametrize("kind", ["rotate", "permute", "noise", "relabel"])
def test_no_amount_is_no_shift(kind: str) -> None:
    plain = build_stream(split_of(size=60), SOURCE, 1)
    shifted = build_stream(split_of(size=60, shift=(kind, 0.0)), SOURCE, 1)
    assert shifted.digest == plain.digest
    assert shifted.train[1].bank is SOURCE.bank
    assert len(shifted.test.pools) == 1


@pytest.mark.parametrize("kind", ["permute", "noise"])
def test_shifted_data_set_stores_only_its_own_samples(kind: str) -> None:
    stream = build_stream(split_of(size=60, shift=(kind, 0.5)), SOURCE, 1)
    plain = build_stream(split_of(size=60), SOURCE, 1)
    assert stream.train[0].digest == plain.train[0].digest
    assert len(stream.test.pools) == 2
    assert stream.test.pools[0].digest == plain.test.pools[0].digest
    second = [stream.train[1], stream.val.pools[1], stream.test.pools[1]]
    assert len(second[0].bank.x) == sum(len(samples) for samples in second)
    assert torch.equal(
        torch.cat([samples.rows for samples in second]).sort().values, torch.arange(len(second[0].bank.x))
    )
    for samples, raw in zip(second, [plain.train[1], plain.val.pools[0], plain.test.pools[0]], strict=True):
        assert torch.equal(samples.ids, raw.ids)
        assert torch.equal(samples.y, raw.y)
        assert samples.digest != raw.digest
        assert not torch.equal(samples.inputs(), raw.inputs())


def test_relabelled_data_set_keeps_its_inputs() -> None:
    stream = build_stream(split_of(size=60, shift=("relabel", 0.5)), SOURCE, 1)
    plain = build_stream(split_of(size=60), SOURCE, 1)
    assert torch.equal(stream.train[1].inputs(), plain.train[1].inputs())
    for new, old in ((stream.train[1], plain.train[1]), (stream.test.pools[1], plain.test.pools[0])):
        pairs = {(int(a), int(b)) for a, b in zip(old.y, new.y, strict=True)}
        assert len(pairs) == 3  # one new label for each class,
        assert sum(a != b for a, b in pairs) == 2  # and two classes exchanged


def test_label_noise_is_in_training_labels_only_and_nests() -> None:
    source = source_of([600, 500])
    plain, some, more = (build_stream(split_of(size=700, label_noise=share), source, 2) for share in (0.0, 0.1, 0.3))
    assert some.test.pools[0].digest == plain.test.pools[0].digest
    assert some.class_counts == plain.class_counts
    for part in range(2):
        wrong, more_wrong = (stream.train[part].y != plain.train[part].y for stream in (some, more))
        assert abs(float(wrong.double().mean()) - 0.1) < 0.05
        assert abs(float(more_wrong.double().mean()) - 0.3) < 0.08
        assert not (wrong & ~more_wrong).any()
    smaller = build_stream(split_of(size=350, label_noise=0.3), source, 2)
    label_of = dict(zip(more.train[0].ids.tolist(), more.train[0].y.tolist(), strict=True))
    common = [(i, y) for i, y in zip(smaller.train[0].ids.tolist(), smaller.train[0].y.tolist(), strict=True)]
    assert [label_of[i] for i, _ in common if i in label_of] == [y for i, y in common if i in label_of]


def test_wrong_labels_are_spread_over_the_other_classes_of_the_stream() -> None:
    source = source_of([300, 300, 300, 300])
    split = split_of(size=400, label_noise=0.5, classes=(("a", "b"), ("d",)))
    plain = build_stream(split_of(size=400, classes=(("a", "b"), ("d",))), source, 0)
    stream = build_stream(split, source, 0)
    for part in range(2):
        true, seen = plain.train[part].y, stream.train[part].y
        assert set(seen.tolist()) == {0, 1, 3}
        wrong = seen[true != seen]
        others = torch.bincount(wrong[true[true != seen] == (0, 3)[part]], minlength=4)
        assert others[2] == 0
        assert (others > 0).sum() == 2


def test_five_data_sets_are_disjoint_with_increasing_rotation() -> None:
    stream = build_stream(split_of(parts=5, size=60, shift=("rotate", 90.0)), SOURCE, 0)
    assert [len(part) for part in stream.train] == [12] * 5
    assert len(union_ids(stream)) == 60
    assert list(stream.test.sets) == ["d1", "d2", "d3", "d4", "d5", "union"]
    raw = SOURCE.bank.x[stream.test.pools[0].ids]
    for part, pool in enumerate(stream.test.pools):
        assert torch.equal(pool.bank.x[pool.rows], torch.rot90(raw, part, (2, 3)))


def test_permutation_differs_between_data_sets_and_seeds() -> None:
    split = split_of(parts=3, size=60, shift=("permute", 1.0))
    stream, other = (build_stream(split, SOURCE, seed) for seed in (0, 1))
    images = [pool.bank.x[pool.rows] for pool in stream.test.pools]
    assert not torch.equal(images[1], images[2])
    assert stream.train[1].content != other.train[1].content
