"""Frozen layers and their statistics do not move; a penalty holds the weights; what cannot be frozen is refused."""

from __future__ import annotations

import pytest
import torch

from src.config import compose
from src.errors import ConfigError
from src.training.starting import initial_model
from tests.training.cells import executed, tiny


@pytest.mark.parametrize("arch", [["arch=mlp", "arch.widths=[8,8]"], ["arch=cnn", "arch.widths=[2,4]"]])
def test_frozen_layers_do_not_move(arch: list[str]) -> None:
    """Stage 2 of freeze leaves every parameter as it was but those of the last layer."""
    plan, execution = executed(tiny("regimes=[freeze]", "seeds=1", "optimizer.weight_decay=0.01", *arch))
    before, after = (execution.results[key].weights for key in plan.runs[0].stages)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"head.weight", "head.bias"}


def test_frozen_normalisation_keeps_its_statistics() -> None:
    """Running means belong to frozen features: they stay, while those of trained layers follow the new data."""
    overrides = ["regimes=[{freeze:{pattern:'^(layer4|fc)'}}]", "split.size=20", "seeds=1", "stopping.epochs=1"]
    plan, execution = executed(tiny(*overrides, "arch=resnet18", "optimizer.batch_size=10"))
    before, after = (execution.results[key].weights for key in plan.runs[0].stages)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"layer4", "fc"}
    assert not torch.equal(before["layer4.0.bn1.running_mean"], after["layer4.0.bn1.running_mean"])


def test_a_network_that_cannot_be_frozen_is_refused_before_training() -> None:
    """One layer has no layer before the last; the cell is refused as a whole."""
    from src.cells.resolve import resolve

    with pytest.raises(ConfigError, match=r"^regime\.freeze=1: nothing is frozen; this architecture has 1 layer: head"):
        resolve(compose(["arch=linear", "regimes=[freeze]"]))
    with pytest.raises(
        ConfigError, match=r"nothing is left to train; .* has 41 layers: conv1, bn1, .*, \.\.\., .*, fc$"
    ):
        resolve(compose(["arch=resnet18", "regimes=[{freeze:{pattern:classifier}}]", "data=digits"]))
    with pytest.raises(ConfigError, match=r"^regime\.chunked\.n_chunks=401"):
        resolve(compose(["regimes=[{chunked:{n_chunks:401}}]"]))


def test_l2_init_pulls_every_stage_to_the_initial_weights() -> None:
    """Under a strong penalty both stages end near the seed's initial weights."""
    plan, execution = executed(tiny("regimes=[{l2_init:{strength:10}},sequential]", "seeds=1", "stopping.epochs=10"))
    drawn = dict(initial_model(tiny(), next(iter(plan.nodes.values())), torch.float32).state_dict())

    def distances(run: int) -> list[float]:
        stages = [execution.results[key].weights for key in plan.runs[run].stages]
        return [sum(float((w[name] - drawn[name]).square().sum()) for name in w) for w in stages]

    assert all(held < 0.5 * free for held, free in zip(distances(0), distances(1), strict=True))
