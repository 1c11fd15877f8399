"""Trains a regime of a cell again on the same data, with other initial weights and batch orders."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from src.claims.cell import CellRuns
from src.data.stream import Stream
from src.evaluation.drift import Weights
from src.training.devices import device_of
from src.training.fit import fit
from src.training.plan import make_plan
from src.training.result import StageResult
from src.training.starting import starting_model


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
