"""Probes of the last stage, update by update: the stability `gap`, and the `path` past the combined optimum."""

from __future__ import annotations

import itertools

import numpy as np

from src.claims.cell import CellRuns, MissingEvidence, ProbeResult, dtype_of, training_samples
from src.claims.probes.retraining import last_stage_trajectories, retrain
from src.data.stream import Stream
from src.evaluation.labelled import evaluation_set
from src.evaluation.landscape import Surface, along, distance_to_path, interpolate
from src.training.trajectory import Trajectory, points

MAX_UPDATES = 50
"""The gap is searched within this number of updates (De Lange et al. 2023: the first tens)."""
NOTED_UPDATES = (0, 1, 2, 5, 10, 20, 50)
"""Updates whose accuracy the note lists."""


def gap(cell: CellRuns) -> ProbeResult:
    """Validation accuracy on Dataset 1 after each of the first 50 updates of the last stage, per regime of two stages.

    ``drop``: accuracy at the start of the stage minus the lowest; ``regained``: accuracy at its end minus the lowest,
    the gap proper. The minimum of a single curve is low by chance too. Therefore the lowest point of a seed is the
    update at which the mean of the *other* seeds is lowest, and both values have expectation 0 without an effect.
    """
    values: dict[tuple[str, int], dict[str, float]] = {}
    notes = []
    for label in sorted({regime.label for regime in cell.config.regimes}):
        if any(run.n_stages != 2 for (of, _), run in cell.runs.items() if of == label):
            continue
        seeds = cell.common_seeds(label)
        if len(seeds) < 2:
            raise MissingEvidence(f"{label} has only one seed; the lowest point needs the other seeds")
        recorded = last_stage_trajectories(cell, label, seeds, lambda n: sorted({*range(min(n, MAX_UPDATES) + 1), n}))
        curves = [_accuracies(cell, stream, trajectory) for stream, trajectory in recorded]
        n = min(map(len, curves)) - 1
        early, final = np.array([curve[:n] for curve in curves]), np.array([curve[-1] for curve in curves])
        for k, seed in enumerate(seeds):
            lowest = float(early[k, np.delete(early, k, axis=0).mean(axis=0).argmin()])
            values[label, seed] = {"drop": float(early[k, 0]) - lowest, "regained": float(final[k]) - lowest}
        noted = [k for k in NOTED_UPDATES if k < n]
        notes.append(
            f"{label}: mean validation accuracy on d1 after {', '.join(map(str, noted))} updates of stage 2 and at its "
            f"end, %: {', '.join(f'{100 * early[:, k].mean():.1f}' for k in noted)}, {100 * final.mean():.1f}; lowest "
            f"after {int(early.mean(axis=0).argmin())}"
        )
    return ProbeResult(values, tuple(notes))


def _accuracies(cell: CellRuns, stream: Stream, trajectory: Trajectory) -> list[float]:
    """Accuracy on Dataset 1's validation set at the start, after each recorded update, and at the end."""
    held_out = evaluation_set(stream.val, "d1", dtype_of(trajectory.weights[0]), None)
    model = cell.model(stream, trajectory.weights[0])
    accuracies = []
    for weights in trajectory.weights:
        model.load_state_dict(dict(weights))
        accuracies.append(held_out.accuracy(model))
    return accuracies if trajectory.updates[-1] > MAX_UPDATES else [*accuracies, accuracies[-1]]


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
