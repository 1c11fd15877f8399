"""Probes that train the last stage of a run once more to see what its weights pass through on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from src.claims.evidence import CellEvidence, Missing
from src.claims.probes.results import Readings, dtype_of, ends_of, finished, model_of, stages_of
from src.data.stream import Stream
from src.evaluation.labelled import evaluation_set
from src.evaluation.landscape import Surface, along, distance_to_path, interpolate
from src.training.devices import device_of
from src.training.trajectory import Trajectory, TrajectoryRequest, nodes_of, points, record_trajectories

PATH_POINTS = 60
SEGMENT_POINTS = 5
GAP_UPDATES = 50
"""The stability gap is looked for in the first so many updates of a stage (De Lange et al. 2023: the first tens)."""
SHOWN = (0, 1, 2, 5, 10, 20, 50)
"""Updates after which the note on the gap says the accuracy."""


def watched(
    evidence: CellEvidence, regime: str, seeds: Sequence[int], at: Callable[[int], Sequence[int]]
) -> Iterator[tuple[Stream, Trajectory]]:
    """The stream and the weights on the way through the last stage, trained again, of runs of two stages.

    `at`: from the number of the stage's updates to those after which its weights are kept. Raises Missing where it cannot
    be trained as it was.
    """
    config = evidence.config
    streams, stages = [], []
    try:
        for seed in seeds:
            stream = evidence.factory.build(seed)
            first, second = stages_of(evidence, regime, seed)
            *_, node = nodes_of(config, stream, regime, evidence.runs[regime, seed].provenance["stage_keys"])
            streams.append(stream)
            stages.append(TrajectoryRequest(node, second, first, at(second.ledger.updates)))
        yield from zip(streams, record_trajectories(config, stages, device_of(config.trainer)), strict=True)
    except ValueError as error:
        raise Missing(f"cell {evidence.cell}: {error}") from None


def path(evidence: CellEvidence) -> Readings:
    """How near the way of stage 2 comes to the combined optimum of the same seed; under the regime `sequential`.

    ``distance``: least distance of the combined weights from the polygon through up to 60 points of stage 2, over the
    distance between its two ends. ``excess_loss``: lowest training loss of the union on that way, at five points of each of
    its segments, less that of combined.
    """
    values = {}
    seeds = finished(evidence, "sequential", "combined")
    ways = watched(evidence, "sequential", seeds, lambda n: points(n, PATH_POINTS))
    for seed, (stream, on_the_way) in zip(seeds, ways, strict=True):
        combined = ends_of(evidence, "combined", seed)[-1]
        dtype = dtype_of(combined)
        x = torch.cat([part.inputs(dtype) for part in stream.train])
        y = torch.cat([part.y for part in stream.train])
        surface = Surface(
            model_of(evidence, stream, combined),
            {"union": (x, y.to(dtype) if y.is_floating_point() else y)},
            evidence.config.loss,
        )
        way = [surface.vector(weights) for weights in on_the_way.weights]
        best = surface.vector(combined)
        between = [interpolate(a, b, t) for a, b in itertools.pairwise(way) for t in along(SEGMENT_POINTS)]
        losses = surface.losses([*between, best])["union"]
        values["sequential", seed] = {
            "distance": distance_to_path(way, best) / float((way[-1] - way[0]).norm()),
            "excess_loss": min(losses[:-1]) - losses[-1],
        }
    return Readings(values)


def gap(evidence: CellEvidence) -> Readings:
    """The stability gap: validation accuracy on Dataset 1 after each of the first 50 updates of the last stage of every
    regime of two stages. On Dataset 1's samples, so nothing of the test sets is read.

    ``drop``: accuracy when the stage begins less that at its lowest; ``regained``: accuracy at the stage's end less that at
    its lowest, which is the gap proper. A curve's own minimum is low by chance, too; so the lowest point of a seed is the
    update at which the mean of the *other* seeds is lowest, and both numbers have mean 0 where nothing happens.
    """
    values: dict[tuple[str, int], dict[str, float]] = {}
    notes = []
    for label in sorted({regime.label for regime in evidence.config.regimes}):
        if any(run.n_stages != 2 for (of, _), run in evidence.runs.items() if of == label):
            continue
        seeds = finished(evidence, label)
        if len(seeds) < 2:
            raise Missing(f"{label} has one seed alone, and the lowest point is found by the others")
        ways = watched(evidence, label, seeds, lambda n: sorted({*range(min(n, GAP_UPDATES) + 1), n}))
        curves = [_early_accuracy(evidence, stream, way) for stream, way in ways]
        n = min(len(curve) for curve in curves) - 1
        early, ends = np.array([curve[:n] for curve in curves]), np.array([curve[-1] for curve in curves])
        for k, seed in enumerate(seeds):
            lowest = int(np.delete(early, k, axis=0).mean(axis=0).argmin())
            at_lowest = float(early[k, lowest])
            values[label, seed] = {"drop": float(early[k, 0]) - at_lowest, "regained": float(ends[k]) - at_lowest}
        shown = ", ".join(f"{100 * early[:, k].mean():.1f}" for k in SHOWN if k < n)
        said = ", ".join(str(k) for k in SHOWN if k < n)
        notes.append(
            f"{label}: mean validation accuracy on d1 after {said} updates of stage 2 and at its end, %: {shown}, "
            f"{100 * ends.mean():.1f}; lowest after {int(early.mean(axis=0).argmin())}"
        )
    return Readings(values, tuple(notes))


def _early_accuracy(evidence: CellEvidence, stream: Stream, way: Trajectory) -> list[float]:
    """Accuracy on Dataset 1's validation set at the start, after each of the first updates, and at the end."""
    held_out = evaluation_set(stream.val, "d1", dtype_of(way.weights[0]), None)
    model = model_of(evidence, stream, way.weights[0])
    found = []
    for weights in way.weights:
        model.load_state_dict(dict(weights))
        found.append(held_out.accuracy(model))
    return found if way.updates[-1] > GAP_UPDATES else [*found, found[-1]]
