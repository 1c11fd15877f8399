"""Labelled samples for inspecting a network: inputs, labels, and the weight of each in its set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from src.data.stream import Evaluations, Samples


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Inputs as the network sees them, their labels, and each one's weight in the set it stands for (sum 1)."""

    x: Tensor
    y: Tensor
    weights: Tensor

    def accuracy(self, model: nn.Module) -> float:
        """Weighted accuracy, in evaluation mode."""
        with torch.no_grad():
            right = model.eval()(self.x).argmax(dim=-1) == self.y
        return float(self.weights @ right.double())


def evaluation_set(evaluations: Evaluations, name: str, dtype: torch.dtype, n_most: int | None) -> Labelled:
    """The samples that have weight in one set, at most `n_most` of them, evenly over each pool.

    Raises ValueError if the set does not exist, because its data set is empty.
    """
    if name not in evaluations.sets:
        raise ValueError(f"there is no held-out set {name}")
    chosen = evaluations.sets[name].weights
    total = sum(int((w > 0).sum()) for w in chosen.values())
    parts = []
    for pool, w in chosen.items():
        kept = torch.nonzero(w > 0).flatten()
        if n_most is not None:
            kept = kept[_evenly(len(kept), max(1, round(n_most * len(kept) / max(1, total))))]
        samples = evaluations.pools[pool]
        parts.append((samples.inputs(dtype, kept), samples.y[kept], w[kept].double()))
    x, y, weights = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Labelled(x=x, y=y, weights=weights / weights.sum())


def training_set(samples: Samples, dtype: torch.dtype, n_most: int | None) -> Labelled:
    """The training samples of a data set, at most `n_most` of them, each with the same weight."""
    kept = _evenly(len(samples), len(samples) if n_most is None else n_most)
    weights = torch.full((len(kept),), 1 / len(kept), dtype=torch.float64)
    return Labelled(x=samples.inputs(dtype, kept), y=samples.y[kept], weights=weights)


def _evenly(n: int, n_most: int) -> Tensor:
    return torch.arange(n) if n <= n_most else torch.linspace(0, n - 1, n_most).round().long()
