"""Metrics agree with torchmetrics and with values computed by hand; weights act as copies; undefined is never 0."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from src.data.stream import Bank, Evaluations, EvaluationSet, Samples
from src.evaluation.metrics import Loss, MetricValues, RatedClasses, RatedTargets, constant_loss, sample_losses, score


def classification_metrics(logits: Tensor, y: Tensor, weights: Tensor, loss: Loss = "cross_entropy") -> MetricValues:
    return RatedClasses.of(logits, y, loss).metrics(weights)


def regression_metrics(predictions: Tensor, targets: Tensor, weights: Tensor) -> MetricValues:
    return RatedTargets.of(predictions, targets).metrics(weights)


def drawn(n_replicas: int, n: int, n_classes: int, seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n_replicas, n, n_classes, generator=generator)
    y = torch.randint(n_classes, (n,), generator=generator)
    return logits, y, torch.rand(n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("n", "n_classes"), [(200, 10), (37, 3), (500, 2)])
def test_with_equal_weights_the_metrics_equal_torchmetrics(n: int, n_classes: int) -> None:
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_calibration_error,
        multiclass_recall,
    )

    logits, y, _ = drawn(3, n, n_classes)
    ours = classification_metrics(logits, y, torch.ones(n))
    for r in range(3):
        theirs = {
            "accuracy": multiclass_accuracy(logits[r], y, n_classes, average="micro"),
            "loss": torch.nn.functional.cross_entropy(logits[r], y),
            "balanced_accuracy": multiclass_recall(logits[r], y, n_classes, average="macro"),
            "ece": multiclass_calibration_error(logits[r], y, n_classes, n_bins=15, norm="l1"),
        }
        recalls = multiclass_recall(logits[r], y, n_classes, average="none")
        theirs |= {f"recall/{k}": value for k, value in enumerate(recalls)}
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            assert float(ours[name][r]) == pytest.approx(float(value), abs=2e-6), name


def test_metrics_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 1])
    weights = torch.tensor([0.4, 0.1, 0.2, 0.3], dtype=torch.float64)
    scores = {name: float(value) for name, value in classification_metrics(probabilities.log(), y, weights).items()}
    assert scores["accuracy"] == pytest.approx(0.8)
    assert scores["recall/0"] == pytest.approx(1.0)
    assert scores["recall/1"] == pytest.approx(0.6)
    assert scores["balanced_accuracy"] == pytest.approx(0.8)
    loss = -(0.4 * math.log(0.9) + 0.1 * math.log(0.6) + 0.2 * math.log(0.2) + 0.3 * math.log(0.7))
    assert scores["loss"] == pytest.approx(loss)
    # bins of width 1/15: .9 and .8, .6 and .7 are all apart
    assert scores["ece"] == pytest.approx(0.4 * 0.1 + 0.1 * 0.4 + 0.2 * 0.8 + 0.3 * 0.3)


def test_samples_of_one_bin_cancel_and_bins_close_on_the_right() -> None:
    # both in (9/15, 10/15]: |weighted accuracy - weighted confidence| of the bin, not sample by sample
    probabilities = torch.tensor([[0.62, 0.38], [0.66, 0.34]], dtype=torch.float64)
    scores = classification_metrics(probabilities.log(), torch.tensor([0, 1]), torch.ones(2))
    assert float(scores["ece"]) == pytest.approx(abs(1 - 0.62 - 0.66) / 2)
    certain = torch.tensor([[1000.0, 0.0], [7.0, 0.0]], dtype=torch.float64)  # confidences 1 and .999, one bin
    scores = classification_metrics(certain, torch.tensor([1, 0]), torch.ones(2))
    confidence = 1 / (1 + math.exp(-7))
    assert float(scores["ece"]) == pytest.approx(abs(1 - 1 - confidence) / 2)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=5, max_size=30), st.integers(0, 10_000))
def test_a_whole_weight_is_so_many_copies_of_the_sample(copies: list[int], seed: int) -> None:
    logits, y, _ = drawn(2, len(copies), 4, seed)
    counts = torch.tensor(copies)
    weighted = classification_metrics(logits, y, 0.25 * counts)
    copied = classification_metrics(
        logits.repeat_interleave(counts, dim=1), y.repeat_interleave(counts), torch.ones(sum(copies))
    )
    for name, values in copied.items():
        torch.testing.assert_close(weighted[name], values, equal_nan=True, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 7, 64, 539])
@pytest.mark.parametrize("n_classes", [2, 10])
def test_the_metrics_of_a_model_do_not_depend_on_its_group(n: int, n_classes: int) -> None:
    logits, y, weights = drawn(12, n, n_classes)
    together = classification_metrics(logits, y, weights)
    for r in range(12):
        for name, alone in classification_metrics(logits[r], y, weights).items():
            assert torch.equal(together[name][r : r + 1].nan_to_num(-1), alone.nan_to_num(-1)), name


def test_each_model_may_have_labels_and_weights_of_its_own() -> None:
    parts = [drawn(1, 50, 3, seed) for seed in range(4)]
    logits, y, weights = (torch.cat([part[0] for part in parts]), *(torch.stack([p[k] for p in parts]) for k in (1, 2)))
    together = classification_metrics(logits, y, weights)
    for r, (own_logits, own_y, own_weights) in enumerate(parts):
        for name, alone in classification_metrics(own_logits, own_y, own_weights).items():
            assert torch.equal(together[name][r : r + 1], alone)


def test_undefined_metrics_are_nan() -> None:
    logits, y, weights = drawn(2, 30, 3)
    absent = classification_metrics(logits, y, weights * (y != 1))
    assert absent["recall/1"].isnan().all()
    torch.testing.assert_close(absent["balanced_accuracy"], (absent["recall/0"] + absent["recall/2"]) / 2)
    for nothing in (
        classification_metrics(logits, y, torch.zeros(30)),
        classification_metrics(logits[:, :0], y[:0], weights[:0]),
        regression_metrics(logits, logits[0].double(), torch.zeros(30)),
    ):
        assert all(values.isnan().all() and values.shape == (2,) for values in nothing.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_model_has_no_metrics_and_does_not_affect_the_others(bad: float) -> None:
    logits, y, weights = drawn(3, 30, 3)
    before = classification_metrics(logits, y, weights)
    logits[1, 4, 0] = bad
    after = classification_metrics(logits, y, weights)
    for name, values in after.items():
        assert values[1].isnan()
        assert torch.equal(values[[0, 2]], before[name][[0, 2]])
    unseen = classification_metrics(logits, y, torch.where(torch.arange(30) == 4, 0.0, weights))
    assert all(values[1].isfinite() for values in unseen.values())


def test_labels_that_are_no_class_are_a_bug() -> None:
    logits, y, weights = drawn(1, 10, 3)
    with pytest.raises(AssertionError, match=r"outside 0\.\.2"):
        classification_metrics(logits, y + 1, weights)


def test_squared_error_is_not_halved_and_classes_are_one_hot() -> None:
    outputs = torch.tensor([[[1.0, 3.0], [0.0, 2.0]]])
    targets = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert float(regression_metrics(outputs, targets, torch.tensor([0.5, 0.5]))["loss"]) == 2.0
    assert float(regression_metrics(outputs, targets, torch.tensor([3.0, 0.0]))["loss"]) == 2.0
    y = torch.tensor([[0, 1]])
    expected = torch.nn.functional.mse_loss(outputs[0], torch.eye(2))
    assert float(classification_metrics(outputs, y, torch.ones(2), "mse")["loss"]) == pytest.approx(float(expected))
    torch.testing.assert_close(
        sample_losses(outputs, y, "cross_entropy")[0],
        torch.nn.functional.cross_entropy(outputs[0], y[0], reduction="none"),
    )


def held_out(seed: int, *, shifted: bool, with_d2: bool = True) -> Evaluations:
    """Two sets and their union over one pool, or over two where Dataset 2 is shifted."""
    generator = torch.Generator().manual_seed(seed)
    bank = Bank(x=torch.rand(20, 4, generator=generator))
    y = torch.randint(3, (20,), generator=generator)
    pool = Samples(bank=bank, rows=torch.arange(20), y=y, ids=torch.arange(20), content="pool")
    first, second = (torch.rand(20, generator=generator, dtype=torch.float64) for _ in range(2))
    first, second = first / first.sum(), second / second.sum()
    other = 1 if shifted else 0
    union = {0: first * 0.25, 1: second * 0.75} if shifted else {0: first * 0.25 + second * 0.75}
    sets = {"d1": EvaluationSet({0: first}), "d2": EvaluationSet({other: second}), "union": EvaluationSet(union)}
    if not with_d2:
        del sets["d2"]
    return Evaluations(pools=(pool, pool) if shifted else (pool,), sets=sets)


@pytest.mark.parametrize("shifted", [False, True])
def test_union_is_the_mixture_of_its_parts_over_shared_or_separate_pools(shifted: bool) -> None:
    evaluations = [held_out(seed, shifted=shifted) for seed in (1, 2)]
    outputs = [torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(k)) for k in range(1 + shifted)]
    rows = score(evaluations, outputs, "cross_entropy", ["d1", "d2", "union"])
    for row, one, r in zip(rows, evaluations, range(2), strict=True):
        for metric in ("accuracy", "loss"):
            d1, d2 = row[f"d1/{metric}"], row[f"d2/{metric}"]
            assert d1 is not None
            assert d2 is not None
            assert row[f"union/{metric}"] == pytest.approx(0.25 * d1 + 0.75 * d2)
        alone = classification_metrics(outputs[0][r], one.pools[0].y, one.sets["d1"].weights[0])
        assert row["d1/ece"] == pytest.approx(float(alone["ece"]), abs=1e-15)
    assert [name for name in rows[0] if "recall" in name] == [f"union/recall/{k}" for k in range(3)]


def test_a_missing_set_has_no_metrics() -> None:
    outputs = [torch.zeros(1, 20, 3)]
    (row,) = score([held_out(0, shifted=False, with_d2=False)], outputs, "cross_entropy", ["d1", "d2"])
    assert {value for name, value in row.items() if name.startswith("d2/")} == {None}
    assert row["d1/loss"] == pytest.approx(math.log(3))


def test_a_regression_has_loss_rmse_and_r2_and_no_accuracy() -> None:
    from torchmetrics.functional.regression import mean_squared_error, r2_score

    def scored(y: Tensor, outputs: Tensor) -> dict[str, float | None]:
        n = len(y)
        bank = Bank(x=torch.zeros(n, 2))
        pool = Samples(bank=bank, rows=torch.arange(n), y=y, ids=torch.arange(n), content="pool")
        uniform = EvaluationSet({0: torch.full((n,), 1 / n, dtype=torch.float64)})
        (row,) = score([Evaluations(pools=(pool,), sets={"union": uniform})], [outputs[None]], "mse", ["union"])
        return {name.removeprefix("union/"): value for name, value in row.items()}

    none = dict.fromkeys(("accuracy", "balanced_accuracy", "ece"))
    constant = scored(torch.ones(4, 1), torch.full((4, 1), 3.0))
    assert constant == {**none, "loss": 4.0, "rmse": 2.0, "r2": None}, "targets that do not vary explain nothing"
    y, outputs = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    row = scored(y, outputs)
    assert row["r2"] == pytest.approx(float(r2_score(outputs, y)), abs=1e-5)
    assert row["rmse"] == pytest.approx(float(mean_squared_error(outputs, y, squared=False)), abs=1e-6)
    assert scored(y, y.mean(0).expand(50, 3))["r2"] == pytest.approx(0.0, abs=1e-6)
    y[:, 1] = 7.0
    assert scored(y, y)["r2"] == 1.0, "the mean over the columns that vary"


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_no_constant_prediction_has_a_lower_loss_than_the_reference(loss: Loss) -> None:
    y = torch.tensor([0, 0, 0, 1, 2, 2])
    best = y.bincount().double() / 6
    outputs = {"cross_entropy": best.log(), "mse": best}[loss]
    reference = constant_loss(y, 3, loss)
    assert reference == pytest.approx(float(sample_losses(outputs.expand(1, 6, 3), y.expand(1, 6), loss).mean()))
    for shift in torch.eye(3, dtype=torch.float64) * 0.1:
        assert float(sample_losses((outputs + shift).expand(1, 6, 3), y.expand(1, 6), loss).mean()) > reference
    targets = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 6.0]])
    constant = sample_losses(targets.mean(0).expand(1, 3, 2), targets.expand(1, 3, 2), "mse").mean()
    assert constant_loss(targets, 2, "mse") == pytest.approx(float(constant))
