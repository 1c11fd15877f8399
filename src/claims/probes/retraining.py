"""Trains a regime of a cell again on the same data, with other initial weights and batch orders."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from src.claims.cell import CellRuns
from src.data.stream import Stream
from src.evaluation.drift import Weights
from src.models.build import build_model
from src.training.devices import device_of
from src.training.fit import fit
from src.training.plan import make_plan


def retrain(cell: CellRuns, label: str, seed: int, chance: Sequence[tuple[int, int]]) -> tuple[Stream, list[Weights]]:
    """The stream of a seed, and the final weights of its regime for each (seed of the weights, seed of the order)."""
    config, device = cell.config, device_of(cell.config.trainer)
    stream = cell.factory.build(seed)
    regime = next(regime for regime in config.regimes if regime.label == label)
    plan = make_plan(config, {seed: stream}, [(regime, seed)])
    weights: list[Weights] = []
    for key in plan.runs[0].stages:
        node = plan.nodes[key]
        nodes, models = [], []
        for k, (init, order) in enumerate(chance):
            nodes.append(dataclasses.replace(node, seed=init, data=dataclasses.replace(node.data, seed=order)))
            model = build_model(config.arch, stream.input_shape, stream.n_outputs, init, device.dtype)
            if weights:
                model.load_state_dict(dict(weights[k]))
            models.append(model)
        weights = [result.weights for result in fit(config, nodes, models, device)]
    return stream, weights
