"""Recording a trajectory changes nothing: the retrained stage ends, bit for bit, with the stored weights.

For both engines and for a second stage that keeps the optimizer; a stage with other initial weights is refused.
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from src.config import Config
from src.models.build import build_model
from src.training.trajectory import Trajectory, TrajectoryRequest, points, record_trajectories
from tests.training.cells import CPU, executed, same_bits, tiny

CELLS = {
    "stacked": ("optimizer.batch_size=7",),
    "one after the other": ("arch=cnn", "arch.widths=[4]"),
    "momentum kept": ("regimes=[{sequential: {reset_optimizer: false}}]", "optimizer.momentum=0.9"),
    "cosine": ("optimizer.schedule=cosine",),
}


def once(config: Config, stage: TrajectoryRequest) -> Trajectory:
    (found,) = record_trajectories(config, [stage], CPU)
    return found


@pytest.mark.parametrize("name", CELLS)
def test_a_recorded_stage_ends_with_the_stored_weights(name: str) -> None:
    config = tiny(*CELLS[name])
    plan, execution = executed(config)
    run = next(run for run in plan.runs if len(run.stages) == 2)
    first, second = (execution.results[key] for key in run.stages)
    nodes = [plan.nodes[key] for key in run.stages]
    n = second.ledger.updates
    start = once(config, TrajectoryRequest(nodes[0], first, None, [0, 1]))
    path = once(config, TrajectoryRequest(nodes[1], second, first, range(n + 1)))
    assert start.exact
    assert path.exact
    assert path.updates == tuple(range(n + 1))
    fresh = build_model(config.arch, nodes[0].stream.input_shape, nodes[0].stream.n_outputs, run.seed).state_dict()
    assert all(same_bits(tensor, fresh[key]) for key, tensor in start.weights[0].items())
    assert all(same_bits(tensor, first.weights[key]) for key, tensor in path.weights[0].items())
    assert all(same_bits(tensor, second.weights[key]) for key, tensor in path.weights[-1].items())
    assert any(not same_bits(tensor, path.weights[1][key]) for key, tensor in path.weights[0].items())


def test_trajectories_recorded_in_a_group_equal_single_ones() -> None:
    """Stages of different lengths: one seed converges before another, and each is recorded to its own end."""
    config = tiny("stopping=convergence", "stopping.tolerance=1.2", "stopping.max_epochs=30", "regimes=[combined]")
    plan, execution = executed(config)
    keys = [run.stages[0] for run in plan.runs]
    results = [execution.results[key] for key in keys]
    assert len({result.ledger.updates for result in results}) > 1
    stages = [
        TrajectoryRequest(plan.nodes[key], result, None, [0, 1, result.ledger.updates // 2])
        for key, result in zip(keys, results, strict=True)
    ]
    for stage, found in zip(stages, record_trajectories(config, stages, CPU), strict=True):
        alone = once(config, stage)
        assert found.exact
        assert found.updates == alone.updates
        assert found.updates[-1] == stage.stored.ledger.updates
        for one, other in zip(found.weights, alone.weights, strict=True):
            assert all(same_bits(tensor, other[name]) for name, tensor in one.items())


def test_a_different_end_is_detected() -> None:
    config = tiny()
    plan, execution = executed(config)
    key = plan.runs[0].stages[0]
    result = execution.results[key]
    other = dataclasses.replace(result, weights={name: tensor + 1e-6 for name, tensor in result.weights.items()})
    assert not once(config, TrajectoryRequest(plan.nodes[key], other, None, [0])).exact


def test_a_stage_with_other_initial_weights_is_refused() -> None:
    config = tiny()
    plan, execution = executed(config)
    first, second = plan.runs[0].stages
    with pytest.raises(ValueError, match="cannot be retrained"):
        once(config, TrajectoryRequest(plan.nodes[second], execution.results[second], None, [0]))
    assert first


def test_points_are_densest_at_the_start_of_a_stage() -> None:
    assert points(5, 10) == [0, 1, 2, 3, 4, 5]
    found = points(1000, 20)
    assert found[0] == 0
    assert found[-1] == 1000
    assert len(found) <= 21
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert gaps[0] == 1
    assert gaps == sorted(gaps)
