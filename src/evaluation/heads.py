"""Softmaxes over some of the outputs: the classes seen so far, those of a sample's own data set (`split.heads`), or
those that a growing head has (`head=grow`)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from src.data.stream import Stream

Groups = tuple[tuple[int, ...], ...]
"""Classes that share a softmax."""

OUTSIDE = -1e9
"""The output of a class outside of the softmax: its probability is exactly 0, and no gradient reaches it."""

LEAST = torch.finfo(torch.float32).eps
"""Probability of a class that the head lacks where held-out samples are scored: 0 would have an infinite loss, so it is
clipped as in scikit-learn's `log_loss`."""


def classes_by_part(stream: Stream) -> Groups:
    """The classes of each data set of the stream."""
    return tuple(tuple(c for c, n in enumerate(counts) if n) for counts in stream.class_counts)


def head_mask(groups: Groups, n_outputs: int) -> Tensor:
    """Whether a class [row] has another [column] in its softmax, [K, K]."""
    mask = torch.zeros(n_outputs, n_outputs, dtype=torch.bool)
    for group in groups:
        mask[torch.tensor(group).unsqueeze(1), torch.tensor(group)] = True
    return mask


def in_own_head(outputs: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """The outputs [..., K] of samples of the classes `y` [...], with `OUTSIDE` for classes outside of their softmax."""
    return outputs if mask is None else outputs.masked_fill(~mask.to(outputs.device)[y.to(outputs.device)], OUTSIDE)


def within(outputs: Tensor, classes: Sequence[int]) -> Tensor:
    """The outputs [..., K] of a head that has `classes` alone, `OUTSIDE` for the others."""
    if len(classes) == outputs.shape[-1]:
        return outputs
    return outputs.masked_fill(_missing(tuple(classes), outputs.shape[-1], outputs.device), OUTSIDE)


@functools.lru_cache(maxsize=64)
def _missing(classes: tuple[int, ...], n_outputs: int, device: torch.device) -> Tensor:
    """Whether a head of `classes` alone lacks an output [K]; kept, so that an update copies nothing to the device."""
    missing = torch.ones(n_outputs, dtype=torch.bool)
    missing[list(classes)] = False
    return missing.to(device)


def has_only(outputs: Tensor, classes: Sequence[int]) -> Tensor:
    """The outputs [..., K] of a head that has `classes` alone: each other class gets the probability `LEAST`."""
    if len(classes) == outputs.shape[-1]:
        return outputs
    masked = within(outputs, classes)
    return torch.where(masked == OUTSIDE, masked.logsumexp(-1, keepdim=True) + math.log(LEAST), outputs)


def test_mask(heads: str, stream: Stream) -> Tensor | None:
    """The mask under which held-out samples are scored: each in its data set's softmax (``heads=own``)."""
    return head_mask(classes_by_part(stream), stream.n_outputs) if heads == "own" else None
