"""Drift measures agree with cases computed by hand.

Properties: relative movement is the ratio of norms per group, undefined from zero; mean probabilities are a weighted mean of
softmax; a probe recovers linear information and weights test samples; restoring all
parts gives the earlier model, and each part alone recovers its own effect; the given model is not changed.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from src.evaluation.drift import (
    features_and_logits,
    head_of,
    mean_probabilities,
    parts_of,
    probe_accuracy,
    relative_movement,
    restoration,
    restored,
)
from src.evaluation.labelled import Labelled
from src.models.structure import layers


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_movement_is_the_ratio_of_norms_over_a_layer() -> None:
    earlier = {"a.weight": torch.tensor([[3.0, 0.0]]), "a.bias": torch.tensor([4.0]), "b.weight": torch.zeros(2)}
    later = {"a.weight": torch.tensor([[3.0, 6.0]]), "a.bias": torch.tensor([-4.0]), "b.weight": torch.ones(2)}
    groups = [("a", ["a.weight", "a.bias"]), ("b", ["b.weight"])]
    assert relative_movement(earlier, later, groups) == {"a": pytest.approx(10 / 5), "b": None}
    assert relative_movement(earlier, earlier, groups)["a"] == 0.0


def test_mean_probabilities_weigh_their_samples() -> None:
    logits = torch.tensor([[0.0, 0.0], [torch.log(torch.tensor(3.0)), 0.0]])
    torch.testing.assert_close(
        mean_probabilities(logits, torch.ones(2)), torch.tensor([0.625, 0.375], dtype=torch.float64)
    )
    weighted = mean_probabilities(logits, torch.tensor([0.0, 5.0]))
    torch.testing.assert_close(weighted, torch.tensor([0.75, 0.25], dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_features_are_the_inputs_of_the_head() -> None:
    model, x = net().train(), torch.randn(5, 3)
    features, logits = features_and_logits(model, x)
    torch.testing.assert_close(features, torch.relu(model[1](x)).detach())
    torch.testing.assert_close(logits, model(x).detach())
    assert model.training
    with pytest.raises(ValueError, match="not a Linear layer"):
        head_of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))


def equal(x: torch.Tensor, y: torch.Tensor) -> Labelled:
    """Samples of equal weight."""
    return Labelled(x=x, y=y, weights=torch.full((len(y),), 1 / len(y)))


def test_a_probe_recovers_exactly_the_linear_information() -> None:
    x = torch.tensor([[0.0, 1.0], [0.1, 5.0], [1.0, 1.0], [1.1, 5.0]])
    y = torch.tensor([0, 0, 1, 1])
    assert probe_accuracy(equal(x, y), equal(x + 0.01, y), 2) == 1.0
    exclusive_or = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert probe_accuracy(equal(exclusive_or, y), equal(exclusive_or, y), 2) == 0.5
    dead = torch.cat([x, torch.zeros(4, 3)], dim=1)
    assert probe_accuracy(equal(dead, y), equal(dead, y), 2) == 1.0


def test_a_probe_never_predicts_a_class_it_has_not_seen_and_weighs_test_samples() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 2])
    test_y = torch.tensor([1, 2])
    test = equal(x, test_y)
    assert probe_accuracy(equal(x, y), test, 3) == 0.5
    assert probe_accuracy(equal(x, y), replace(test, weights=torch.tensor([1.0, 3.0])), 3) == 0.75


def test_parts_divide_the_state_into_features_and_head() -> None:
    model = net()
    parts = parts_of(model)
    assert parts == {"bias": ["3.bias"], "head": ["3.weight", "3.bias"], "features": ["1.weight", "1.bias"]}
    assert {name for name, _ in layers(model)} == {"1", "3"}
    assert "bias" not in parts_of(nn.Sequential(nn.Linear(3, 2, bias=False)))


def test_restored_takes_named_tensors_from_the_earlier_weights() -> None:
    earlier, later = {"a": torch.zeros(1), "b": torch.zeros(1)}, {"a": torch.ones(1), "b": torch.ones(1)}
    assert {name: float(t) for name, t in restored(later, earlier, ["b"]).items()} == {"a": 1.0, "b": 0.0}


def test_restoration_finds_the_part_that_moved() -> None:
    """Restoring the bias recovers a model whose head bias alone was changed, but not one whose features were changed."""
    model, x = net(), torch.randn(200, 3)
    with torch.no_grad():  # both classes are predicted equally often
        logits = model(x)
        model[3].bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    earlier = copy.deepcopy(model.state_dict())
    y = model(x).argmax(1)
    before = copy.deepcopy(model.state_dict())

    def accuracy(candidate: nn.Module) -> float:
        return float((candidate(x).argmax(1) == y).double().mean())

    spoiled = {**earlier, "3.bias": earlier["3.bias"] + torch.tensor([9.0, 0.0])}
    scores = restoration(model, earlier, spoiled, x, accuracy)
    assert scores["earlier"] == scores["bias"] == scores["effective bias"] == scores["head"] == 1.0
    assert scores["later"] == scores["features"] < 1.0

    spoiled = {**earlier, "1.weight": -earlier["1.weight"]}
    scores = restoration(model, earlier, spoiled, x, accuracy)
    assert scores["features"] == 1.0
    assert scores["bias"] == scores["head"] == scores["later"] < 1.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_effective_bias_brings_back_mean_outputs() -> None:
    """Weights that all features share can move the mean outputs without the bias: then the bias alone recovers nothing."""
    model = nn.Sequential(nn.Linear(2, 2))
    earlier = {"0.weight": torch.eye(2), "0.bias": torch.zeros(2)}
    later = {"0.weight": torch.eye(2) + torch.tensor([[0.0, 0.0], [5.0, 5.0]]), "0.bias": torch.zeros(2)}
    x = torch.tensor([[1.2, 0.8], [0.8, 1.2]])  # both have the same sum, so the change adds 10 to the second output
    scores = restoration(
        model, earlier, later, x, lambda m: float((m(x).argmax(1) == torch.tensor([0, 1])).double().mean())
    )
    assert scores["bias"] == scores["later"] == 0.5
    assert scores["effective bias"] == scores["earlier"] == 1.0
