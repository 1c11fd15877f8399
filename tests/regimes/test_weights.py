"""Stages that start from averaged or shrunk weights start from exactly those."""

from __future__ import annotations

import pytest
import torch

from src.config import compose
from src.errors import ConfigError
from tests.training.cells import executed, planned, tiny


def test_a_model_of_the_average_is_that_of_its_data_set() -> None:
    """All weight on one model is that model."""
    names = "[d1_only,d2_only,{average:{weight:0}},{average:{weight:1}}]"
    plan, execution = executed(tiny(f"regimes={names}", "seeds=1"))
    first, second, none, all_of_it = (execution.results[run.stages[-1]].weights for run in plan.runs)
    for name in first:
        torch.testing.assert_close(none[name], first[name], rtol=0, atol=0)
        torch.testing.assert_close(all_of_it[name], second[name], rtol=0, atol=0)


def test_an_average_without_weight_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^split\.sizes=\[60, 0\]: leaves an average whose only weight is on a model without"
    ):
        planned(compose(["regimes=[{average:{weight:1}}]", "split.sizes=[60,0]"]))


def test_dash_shrinks_each_unit_to_no_less_than_its_floor() -> None:
    """At a rate of nearly 0 the end of the stage is its start: each unit keeps its direction, times .3 to 1."""
    config = tiny("regimes=[{dash:{optimizer.lr:0.1,lr_factor:1.0e-12}}]", "seeds=1", "arch.widths=[6]")
    plan, execution = executed(config)
    before, after = (execution.results[key].weights for key in plan.runs[0].stages)
    for name in ("hidden_1.weight", "head.weight"):
        factor = (after[name] / before[name]).mean(1, keepdim=True)
        torch.testing.assert_close(after[name], before[name] * factor, rtol=1e-4, atol=1e-7)
        assert ((factor > 0.2999) & (factor < 1.0001)).all()
        assert factor.min() < 0.31
