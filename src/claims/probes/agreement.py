"""Probe `agreement`: how often models of different seeds disagree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from src.claims.cell import CellRuns, MissingEvidence, ProbeResult, dtype_of
from src.data.stream import Stream


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
