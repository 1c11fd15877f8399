"""Probe `variation`: crosses the sources of randomness - data draw, initial weights, batch order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from src.claims.cell import CellRuns, ProbeResult
from src.claims.probes.retraining import retrain
from src.training.devices import device_of
from src.training.scoring import score_stages

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


def variance_components(table: NDArray[np.float64]) -> dict[str, float]:
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


def _accuracies(cell: CellRuns, label: str, seed: int) -> NDArray[np.float64]:
    """Accuracy on union of a regime on the data of one seed, [inits, orders]."""
    chance = [(1000 * (seed + 1) + i, 1000 * (seed + 1) + o) for i in range(N_INITS) for o in range(N_ORDERS)]
    stream, weights = retrain(cell, label, seed, chance)
    scored = [(stream, final) for final in weights]
    scores = score_stages(cell.config, scored, "test", device_of(cell.config.trainer))
    return np.array([score["union/accuracy"] for score in scores], np.float64).reshape(N_INITS, N_ORDERS)
