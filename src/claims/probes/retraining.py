"""Trains runs of a cell again: with other initial weights and batch orders, or recording the weights on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from src.claims.cell import CellRuns, MissingEvidence
from src.data.stream import Stream
from src.evaluation.drift import Weights
from src.training.devices import device_of
from src.training.fit import fit
from src.training.plan import make_plan
from src.training.result import StageResult
from src.training.starting import starting_model
from src.training.trajectory import Trajectory, TrajectoryRequest, nodes_of, record_trajectories


def retrain(cell: CellRuns, label: str, seed: int, chance: Sequence[tuple[int, int]]) -> tuple[Stream, list[Weights]]:
    """The stream of a seed, and the final weights of its regime for each (seed of the weights, seed of the order)."""
    config, device = cell.config, device_of(cell.config.trainer)
    stream = cell.factory.build(seed)
    regime = next(regime for regime in config.regimes if regime.label == label)
    plan = make_plan(config, {seed: stream}, [(regime, seed)])
    results: list[dict[str, StageResult]] = [{} for _ in chance]
    for key in plan.runs[0].stages:
        node = plan.nodes[key]
        nodes = [
            dataclasses.replace(node, seed=init, data=dataclasses.replace(node.data, seed=order))
            for init, order in chance
        ]
        models = [starting_model(config, one, own, device) for one, own in zip(nodes, results, strict=True)]
        for own, result in zip(results, fit(config, nodes, models, device), strict=True):
            own[key] = result
    return stream, [own[plan.runs[0].stages[-1]].weights for own in results]


def last_stage_trajectories(
    cell: CellRuns, regime: str, seeds: Sequence[int], updates: Callable[[int], Sequence[int]]
) -> Iterator[tuple[Stream, Trajectory]]:
    """The stream and the trajectory of the last stage for each seed, for runs of two stages.

    `updates`: from the stage's number of updates to those after which its weights are recorded. Raises MissingEvidence
    if the stage cannot be trained as before.
    """
    streams, stages = [], []
    try:
        for seed in seeds:
            stream = cell.factory.build(seed)
            first, second = cell.stages(regime, seed)
            *_, node = nodes_of(cell.config, stream, regime, cell.runs[regime, seed].provenance["stage_keys"])
            streams.append(stream)
            stages.append(TrajectoryRequest(node, second, first, updates(second.ledger.updates)))
        found = record_trajectories(cell.config, stages, device_of(cell.config.trainer))
        yield from zip(streams, found, strict=True)
    except ValueError as error:
        raise MissingEvidence(f"cell {cell.cell}: {error}") from None
