"""Probe `path`: how close stage 2 passes to the combined optimum, against the distance between two such optima."""

from __future__ import annotations

import itertools

from src.claims.cell import CellRuns, ProbeResult, dtype_of, training_samples
from src.claims.probes.retraining import retrain
from src.claims.probes.trajectories import last_stage_trajectories
from src.evaluation.landscape import Surface, along, distance_to_path, interpolate
from src.training.trajectory import points

MAX_POINTS = 60
N_ORDERS = 2
SEGMENT_POINTS = 5


def path(cell: CellRuns) -> ProbeResult:
    """How close the trajectory of stage 2 passes to the combined optimum of the same seed, for the regime `sequential`.

    ``distance``: smallest distance of the combined weights from the polygon through up to 60 points of stage 2, over
    the distance between its ends. ``straightness``: the latter over the length of the polygon. ``excess_loss``: lowest
    training loss on the union along the polygon, at five points per segment, minus that of the combined weights.

    The reference is what chance alone moves the combined weights, over the same distance: ``order_distance`` to those
    of the same data and initial weights in another batch order, ``second_order_distance`` to those of a third order.
    """
    values = {}
    seeds = cell.common_seeds("sequential", "combined")
    recorded = last_stage_trajectories(cell, "sequential", seeds, lambda n: points(n, MAX_POINTS))
    for seed, (stream, trajectory) in zip(seeds, recorded, strict=True):
        combined = cell.final_weights("combined", seed)
        samples = training_samples(stream.train, dtype_of(combined))
        surface = Surface(cell.model(stream, combined), {"union": samples}, cell.config.loss)
        polygon = [surface.vector(weights) for weights in trajectory.weights]
        optimum = surface.vector(combined)
        on_path = [interpolate(a, b, t) for a, b in itertools.pairwise(polygon) for t in along(SEGMENT_POINTS)]
        losses = surface.losses([*on_path, optimum])["union"]
        length = float((polygon[-1] - polygon[0]).norm())
        # the sources of a run's randomness are far below 1,000,000, so these orders are new
        _, others = retrain(cell, "combined", seed, [(seed, 1_000_000 * (k + 1) + seed) for k in range(N_ORDERS)])
        moved = [float((surface.vector(weights) - optimum).norm()) / length for weights in others]
        values["sequential", seed] = {
            "distance": distance_to_path(polygon, optimum) / length,
            "order_distance": moved[0],
            "second_order_distance": moved[1],
            "straightness": length / sum(float((b - a).norm()) for a, b in itertools.pairwise(polygon)),
            "excess_loss": min(losses[:-1]) - losses[-1],
        }
    return ProbeResult(values)
