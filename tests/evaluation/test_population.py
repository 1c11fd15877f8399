"""Exact risks: equal to the mean squared error over very many samples, and defined only where the distribution is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.data.stream import Population
from src.evaluation.population import population_risks
from src.models.linear import LinearArch
from src.models.mlp import MlpArch

LINEAR = LinearArch(name="linear", bias=True, init="default")
ROOT = np.array([[2.0, 0.0], [1.0, 0.5], [0.0, 0.0]])  # inputs fill two of three dimensions
POPULATIONS = (
    Population(ROOT, np.array([1.0, -1.0, 3.0]), 0.5),
    Population(np.eye(3), np.array([0.0, 2.0, 0.0]), 0.5),
)
STATE = {"head.weight": torch.tensor([[0.5, 0.5, -2.0]]), "head.bias": torch.tensor([0.3])}


def test_risks_are_the_expected_squared_errors() -> None:
    found = population_risks(LINEAR, STATE, POPULATIONS, [30, 10])
    rng = np.random.default_rng(0)
    for name, population in zip(("d1", "d2"), POPULATIONS, strict=True):
        x = rng.standard_normal((400_000, population.root.shape[1])) @ population.root.T
        y = x @ population.target + 0.5 * rng.standard_normal(len(x))
        loss = np.mean((x @ [0.5, 0.5, -2.0] + 0.3 - y) ** 2)
        assert found[f"{name}/risk"] == pytest.approx(loss, rel=0.02)
        assert found[f"{name}/risk"] == pytest.approx(found[f"{name}/excess_risk"] + 0.25)
    assert found["union/risk"] == pytest.approx(0.75 * found["d1/risk"] + 0.25 * found["d2/risk"])
    assert set(found) == {f"{name}/{kind}" for name in ("d1", "d2", "union") for kind in ("risk", "excess_risk")}


def test_the_true_weights_have_no_excess() -> None:
    state = {"head.weight": torch.tensor([[1.0, -1.0, 3.0]], dtype=torch.float64)}
    assert population_risks(LINEAR, state, POPULATIONS[:1], [5])["d1/excess_risk"] == 0


def test_an_empty_data_set_has_no_risk() -> None:
    found = population_risks(LINEAR, STATE, POPULATIONS, [30, 0])
    assert found["d2/risk"] is None
    assert found["union/risk"] == found["d1/risk"]


def test_there_is_no_risk_without_a_known_population() -> None:
    assert population_risks(LINEAR, STATE, None, [30, 10]) == {}
    assert population_risks(MlpArch(name="mlp", widths=(4,), depth=None), STATE, POPULATIONS, [30, 10]) == {}
