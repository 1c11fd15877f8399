"""A model's scores depend on its weights alone: neither on what is scored with it, nor on how its inputs are kept."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from torch import nn

from src.models.build import build_model
from src.training import scoring
from src.training.scoring import score_stages
from tests.training.cells import CPU, executed, tiny

KINDS: tuple[Literal["test", "train"], ...] = ("test", "train")


@pytest.mark.parametrize("of", KINDS)
@pytest.mark.parametrize("arch", ["arch=mlp", "arch=cnn"])
def test_scores_alone_and_together(of: Literal["test", "train"], arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("regimes=[sequential,combined]", "split.ratio=0.5", arch)
    plan, execution = executed(config)
    stages = [(plan.nodes[key].stream, execution.results[key].weights) for key in plan.nodes]
    together = score_stages(config, stages, of, CPU)
    assert len({tuple(scores.items()) for scores in together}) == len(stages) == 9
    assert [score_stages(config, [one], of, CPU)[0] for one in stages] == together
    monkeypatch.setattr(scoring, "KEPT_MIB", 0)  # every model's inputs are made anew
    assert score_stages(config, stages, of, CPU) == together


def test_a_network_that_changes_its_inputs_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs that were scaled once for all models must not carry one network's changes to the next."""

    def doubling(*arguments: Any) -> nn.Module:
        model = build_model(*arguments)
        model.register_forward_pre_hook(lambda _, inputs: inputs[0].mul_(2))
        return model

    config = tiny("regimes=[combined]")
    plan, execution = executed(config)
    stages = [(plan.nodes[key].stream, execution.results[key].weights) for key in plan.nodes]
    plain = score_stages(config, stages, "test", CPU)
    monkeypatch.setattr(scoring, "build_model", doubling)
    together = score_stages(config, stages, "test", CPU)
    assert together != plain
    assert [score_stages(config, [one], "test", CPU)[0] for one in stages] == together
