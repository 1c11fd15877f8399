"""Probe `gap`: the stability gap at the start of the last stage (De Lange et al. 2023)."""

from __future__ import annotations

import numpy as np

from src.claims.cell import CellRuns, MissingEvidence, ProbeResult, dtype_of
from src.claims.probes.trajectories import last_stage_trajectories
from src.data.stream import Stream
from src.evaluation.labelled import evaluation_set
from src.training.trajectory import Trajectory

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
