"""Probe `overwriting`: whether stage 2 spares the weights that Dataset 1 uses."""

from __future__ import annotations

import torch

from src.claims.cell import CellRuns, ProbeResult
from src.claims.probes.noise import per_sample

IMPORTANT = 0.1
"""Share of the parameters that count as important."""


def overwriting(cell: CellRuns) -> ProbeResult:
    """``important_moved``: movement in the last stage of the parameters most important to Dataset 1, over that of all.

    The movement is the mean absolute change. A parameter's importance is the mean squared gradient of the loss on
    Dataset 1's test samples at the weights before the stage (the empirical Fisher information, as in EWC); the tenth of
    highest importance counts as important. Runs of one stage have no value.
    """
    values = {}
    for label, seed in cell.finished():
        stages = cell.stages(label, seed)
        if len(stages) < 2:
            continue
        before, after = stages[-2].weights, stages[-1].weights
        stream = cell.factory.build(seed)
        _, gradients = per_sample(cell, stream, before)
        importance = torch.as_tensor((gradients**2).mean(axis=0))
        names = [name for name, _ in cell.model(stream, before).named_parameters()]
        moved = torch.cat([(after[name] - before[name]).double().abs().flatten() for name in names])
        chosen = importance.topk(max(1, round(IMPORTANT * len(importance)))).indices
        values[label, seed] = {"important_moved": float(moved[chosen].mean() / moved.mean())}
    return ProbeResult(values)
