"""Probes that compare seeds: `agreement` of two models, the loss `between` them, `variation` by source of chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from src.claims.cell import CellRuns, MissingEvidence, ProbeResult, dtype_of, training_samples
from src.claims.probes.retraining import retrain
from src.comparison.statistics import Floats
from src.data.stream import Stream
from src.evaluation.landscape import Surface, along, barrier, interpolate
from src.training.devices import device_of
from src.training.scoring import score_stages


def agreement(cell: CellRuns) -> ProbeResult:
    """``disagreement``: share of samples for which two models of different seeds predict different classes.

    Seeds form disjoint pairs; the value is recorded under the first seed. The two differ in data draw, initial weights
    and batch order. The samples are those of Dataset 1's test pool that both seeds hold out.
    """
    values: dict[tuple[str, int], dict[str, float]] = {}
    for key, streams, weights in cell.trained_pairs():
        x = _common_inputs(streams, dtype_of(weights[0]))
        with torch.no_grad():
            a, b = (cell.model(*pair)(x).argmax(dim=-1) for pair in zip(streams, weights, strict=True))
        values[key] = {"disagreement": float((a != b).double().mean())}
    return ProbeResult(values)


def _common_inputs(streams: Sequence[Stream], dtype: torch.dtype) -> Tensor:
    """Inputs of the test samples of Dataset 1 that both streams have, by sample id."""
    first, second = (stream.test.pools[0] for stream in streams)
    shared = torch.isin(first.ids, second.ids)
    if not bool(shared.any()):
        raise MissingEvidence("two seeds have no test sample in common")
    return first.inputs(dtype, shared)


N_POINTS = 21
"""Points on the line between two optima."""


def between(cell: CellRuns) -> ProbeResult:
    """``barrier``: rise of the loss on the straight line between the optima of two seeds, in nats above the higher end.

    ``distance``: between the optima, over the mean of their distances from 0. The loss is that of both seeds' training
    samples together. Seeds form disjoint pairs; the values are recorded under the first seed.
    """
    values: dict[tuple[str, int], dict[str, float]] = {}
    for key, streams, weights in cell.trained_pairs():
        samples = training_samples([part for stream in streams for part in stream.train], dtype_of(weights[0]))
        surface = Surface(cell.model(streams[0], weights[0]), {"both": samples}, cell.config.loss)
        a, b = map(surface.vector, weights)
        losses = surface.losses([interpolate(a, b, t) for t in along(N_POINTS)])["both"]
        values[key] = {
            "barrier": barrier(losses),
            "distance": float((a - b).norm() / ((a.norm() + b.norm()) / 2)),
        }
    return ProbeResult(values)


N_INITS = N_ORDERS = 4


def variation(cell: CellRuns) -> ProbeResult:
    """Sequential minus combined, accuracy on union, of every data draw for 4 initialisations x 4 batch orders.

    ``wrong_sign``: share of a draw's 16 comparisons with the opposite sign to the mean of all other draws; ``mean``: of
    the 16; both under the regime `sequential`. The note splits the variance of one comparison into its sources.
    """
    seeds = cell.common_seeds("sequential", "combined")
    table = np.stack([_accuracies(cell, "sequential", seed) - _accuracies(cell, "combined", seed) for seed in seeds])
    values = {}
    for k, seed in enumerate(seeds):
        direction = np.sign(np.delete(table, k, axis=0).mean())
        wrong = float((np.sign(table[k]) == -direction).mean()) if direction else 0.0
        values["sequential", seed] = {"wrong_sign": wrong, "mean": float(table[k].mean())}
    components = variance_components(table)
    total = sum(components.values())
    shares = ", ".join(f"{name} {100 * part / total:.0f} %" for name, part in components.items())
    deviation = 100 * float(np.sqrt(total))
    note = f"one comparison has a standard deviation of {deviation:.2f} points; components of its variance: {shares}"
    return ProbeResult(values, (note,))


def variance_components(table: Floats) -> dict[str, float]:
    """Variance components of `table` [draws, inits, orders], inits and orders crossed within each draw.

    Nested random effects by the method of moments (Searle et al. 1992); negative estimates are kept.
    """
    _, n_inits, n_orders = table.shape
    by_draw = table.mean(axis=(1, 2))
    by_init, by_order = table.mean(axis=2), table.mean(axis=1)
    residuals = table - by_init[:, :, None] - by_order[:, None, :] + by_draw[:, None, None]
    residual = float(np.mean(np.sum(residuals**2, axis=(1, 2)) / ((n_inits - 1) * (n_orders - 1))))
    init = float(np.mean(by_init.var(axis=1, ddof=1))) - residual / n_orders
    order = float(np.mean(by_order.var(axis=1, ddof=1))) - residual / n_inits
    within = init / n_inits + order / n_orders + residual / (n_inits * n_orders)
    return {"data": float(by_draw.var(ddof=1)) - within, "init": init, "order": order, "residual": residual}


def _accuracies(cell: CellRuns, label: str, seed: int) -> Floats:
    """Accuracy on union of a regime on the data of one seed, [inits, orders]."""
    chance = [(1000 * (seed + 1) + i, 1000 * (seed + 1) + o) for i in range(N_INITS) for o in range(N_ORDERS)]
    stream, weights = retrain(cell, label, seed, chance)
    scored = [(stream, final) for final in weights]
    scores = score_stages(cell.config, scored, "test", device_of(cell.config.trainer))
    return np.array([score["union/accuracy"] for score in scores], np.float64).reshape(N_INITS, N_ORDERS)
