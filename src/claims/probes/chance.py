"""The probe that crosses the sources of chance: data draw, initial weights, batch order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from src.claims.evidence import CellEvidence
from src.claims.probes.results import Readings, finished
from src.evaluation.drift import Weights
from src.models.build import build_model
from src.regimes.config import RegimeConfig
from src.training.devices import device_of
from src.training.evaluate import score_stages
from src.training.fit import fit
from src.training.plan import Node, make_plan

N_INITS = N_ORDERS = 4


def variation(evidence: CellEvidence) -> Readings:
    """Sequential less combined, accuracy on union, of every data draw under 4 initial weights x 4 batch orders; under the
    regime `sequential`.

    ``wrong_sign``: share of a draw's 16 comparisons whose sign is opposite to the mean of all the other draws';
    ``mean``: of its 16. The note splits the variance of one comparison into data draw, initialisation, order and the rest
    (nested random effects: inits and orders are new for every draw; moments, Searle et al. 1992, negative ones as they are).
    """
    seeds = finished(evidence, "sequential", "combined")
    table = np.stack([_crossed(evidence, seed) for seed in seeds])
    values = {}
    for k, seed in enumerate(seeds):
        direction = np.sign(np.delete(table, k, axis=0).mean())
        wrong = float((np.sign(table[k]) == -direction).mean()) if direction else 0.0
        values["sequential", seed] = {"wrong_sign": wrong, "mean": float(table[k].mean())}
    parts = variance_parts(table)
    shown = ", ".join(f"{name} {100 * part / sum(parts.values()):.0f} %" for name, part in parts.items())
    deviation = 100 * float(np.sqrt(sum(parts.values())))
    return Readings(
        values, (f"one comparison has a standard deviation of {deviation:.2f} points: {shown} of its variance",)
    )


def variance_parts(table: NDArray[np.float64]) -> dict[str, float]:
    """Variance components of `table` [draws, inits, orders], inits and orders crossed within each draw."""
    _, n_inits, n_orders = table.shape
    by_draw = table.mean(axis=(1, 2))
    by_init, by_order = table.mean(axis=2), table.mean(axis=1)
    left = table - by_init[:, :, None] - by_order[:, None, :] + by_draw[:, None, None]
    rest = float(np.mean(np.sum(left**2, axis=(1, 2)) / ((n_inits - 1) * (n_orders - 1))))
    init = float(np.mean(by_init.var(axis=1, ddof=1))) - rest / n_orders
    order = float(np.mean(by_order.var(axis=1, ddof=1))) - rest / n_inits
    within = init / n_inits + order / n_orders + rest / (n_inits * n_orders)
    return {"data": float(by_draw.var(ddof=1)) - within, "init": init, "order": order, "the rest": rest}


def _crossed(evidence: CellEvidence, seed: int) -> NDArray[np.float64]:
    """Sequential less combined of one data draw, [inits, orders]."""
    ends = {label: _trained(evidence, label, seed) for label in ("sequential", "combined")}
    place = device_of(evidence.config.trainer)
    stream = evidence.factory.build(seed)
    scores = {
        label: [
            s["union/accuracy"] for s in score_stages(evidence.config, [(stream, w) for w in weights], "test", place)
        ]
        for label, weights in ends.items()
    }
    differences = np.array(scores["sequential"], np.float64) - np.array(scores["combined"], np.float64)
    return differences.reshape(N_INITS, N_ORDERS)


def _regime(evidence: CellEvidence, label: str) -> RegimeConfig:
    return next(regime for regime in evidence.config.regimes if regime.label == label)


def _trained(evidence: CellEvidence, label: str, seed: int) -> Sequence[Weights]:
    """Weights of a regime on the data of one seed, for every initialisation and order."""
    config, place = evidence.config, device_of(evidence.config.trainer)
    stream = evidence.factory.build(seed)
    plan = make_plan(config, {seed: stream}, [(_regime(evidence, label), seed)])
    chance = [(1000 * (seed + 1) + i, 1000 * (seed + 1) + o) for i in range(N_INITS) for o in range(N_ORDERS)]
    weights: list[Weights] = []
    for key in plan.runs[0].stages:
        node = plan.nodes[key]
        nodes: list[Node] = []
        models: list[nn.Module] = []
        for k, (init, order) in enumerate(chance):
            nodes.append(dataclasses.replace(node, seed=init, data=dataclasses.replace(node.data, seed=order)))
            model = build_model(config.arch, stream.input_shape, stream.n_outputs, init, place.dtype)
            if weights:
                model.load_state_dict(dict(weights[k]))
            models.append(model)
        weights = [result.weights for result in fit(config, nodes, models, place)]
    return weights
