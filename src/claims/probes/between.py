"""Probe `between`: the loss between the optima of two seeds."""

from __future__ import annotations

from src.claims.cell import CellRuns, ProbeResult, dtype_of, training_samples
from src.evaluation.landscape import Surface, along, barrier, interpolate

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
