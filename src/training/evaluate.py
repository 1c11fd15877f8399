"""Scores trained weights on held-out sets, one plain model at a time, so that a score's bits depend on the weights alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from src.config import Config
from src.data.stream import Evaluations, EvaluationSet, Samples, Stream
from src.evaluation.metrics import score
from src.evaluation.population import population_risks
from src.models.build import build_model
from src.models.structure import memory_layout
from src.training.devices import Device
from src.training.scoring import EVALUATION_BATCH

SCORED_AT_ONCE = 16
"""Models whose outputs are in memory together."""

Scores = dict[str, float | None]


def set_names(n_parts: int) -> list[str]:
    """d1, d2, ..., union."""
    return [f"d{part + 1}" for part in range(n_parts)] + ["union"]


def score_stages(
    config: Config, stages: Sequence[tuple[Stream, Mapping[str, Tensor]]], of: Literal["test", "train"], device: Device
) -> list[Scores]:
    """Metrics ``d1/accuracy``, ..., ``union/recall/3`` of each (stream, weights), streams of one split.

    `of`: the test sets, or the training samples themselves, every sample equally. Exact risks are included if the
    distribution behind the test sets is known. The network is built once; only its weights change.
    """
    stream = stages[0][0]
    model = build_model(config.arch, stream.input_shape, stream.n_outputs, stream.seed, device.dtype)
    layout = memory_layout(model, stream.input_shape, device.torch_device)
    model = model.to(device.torch_device).to(memory_format=layout).eval()
    names = set_names(config.split.parts)
    scores: list[Scores] = []
    for start in range(0, len(stages), SCORED_AT_ONCE):
        some = stages[start : start + SCORED_AT_ONCE]
        evaluations = [stream.test if of == "test" else training_sets(stream.train) for stream, _ in some]
        outputs = []
        for one, (_, weights) in zip(evaluations, some, strict=True):
            model.load_state_dict(dict(weights))
            outputs.append([_outputs(model, pool, device, layout) for pool in one.pools])
        by_pool = [torch.stack([own[pool] for own in outputs]) for pool in range(len(outputs[0]))]
        rows = score(evaluations, by_pool, config.loss, names)
        if of == "test":
            for row, (stream, weights) in zip(rows, some, strict=True):
                sizes = [len(part) for part in stream.train]
                risks = population_risks(config.arch, weights, stream.populations, sizes)
                row |= {
                    name: risk if risk is not None and math.isfinite(risk) else None for name, risk in risks.items()
                }
        scores += rows
    return scores


def _outputs(model: nn.Module, samples: Samples, device: Device, layout: torch.memory_format) -> Tensor:
    parts = []
    with torch.no_grad():
        for start in range(0, len(samples), EVALUATION_BATCH):
            rows = samples.rows[start : start + EVALUATION_BATCH]
            x = samples.bank.scale(samples.bank.x[rows].to(device.torch_device), device.dtype)
            parts.append(model(x.contiguous(memory_format=layout)).cpu())
    return torch.cat(parts)


def training_sets(train: Sequence[Samples]) -> Evaluations:
    """The training samples as sets to score: every sample has the same weight."""
    present = [part for part, samples in enumerate(train) if len(samples)]
    total = sum(len(train[part]) for part in present)
    sets: dict[str, EvaluationSet] = {}
    union: dict[int, Tensor] = {}
    for pool, part in enumerate(present):
        n = len(train[part])
        sets[f"d{part + 1}"] = EvaluationSet({pool: torch.full((n,), 1 / n, dtype=torch.float64)})
        union[pool] = torch.full((n,), 1 / total, dtype=torch.float64)
    return Evaluations(tuple(train[part] for part in present), {**sets, "union": EvaluationSet(union)})
