"""Probes: numbers of a cell that need its trained weights and its data, seed by seed.

A statement asks for ``agreement/disagreement`` as for any metric; the part before the slash names the probe here. What is
measured, on which samples and over which draws, is in each function's docstring; docs/CLAIMS.md says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from src.claims.evidence import CellEvidence, Missing
from src.claims.probes.chance import variation
from src.claims.probes.prior import prior
from src.claims.probes.results import Readings, dtype_of, ends_of, model_of
from src.claims.probes.trajectories import gap, path
from src.data.stream import Samples, Stream
from src.evaluation.landscape import Surface, along, barrier, interpolate
from src.evaluation.metrics import sample_losses
from src.seeds import generator

LINE_POINTS = 21
DRAWS = 400
SAMPLE_SIZES = (10, 30, 100, 300, 1000)
MOST_SAMPLES = 400
"""Of the pool that stands for the distribution in `noise`: each has a gradient of its own in memory."""


def agreement(evidence: CellEvidence) -> Readings:
    """``disagreement``: share of samples on which two models of different seeds predict different classes.

    Seeds are taken two by two (0 and 1, 2 and 3, ...), so that the numbers are independent; a pair's is under its first.
    Both differ in data draw, initial weights and order. Judged on the samples that both hold out for the test.
    """
    values: dict[tuple[str, int], dict[str, float]] = {}
    for label in labels_of(evidence):
        for first, second in pairs(evidence, label):
            streams = [evidence.factory.build(seed) for seed in (first, second)]
            x = _in_both(streams, dtype_of(ends_of(evidence, label, first)[-1]))
            guesses = []
            for seed, stream in zip((first, second), streams, strict=True):
                model = model_of(evidence, stream, ends_of(evidence, label, seed)[-1])
                with torch.no_grad():
                    guesses.append(model(x).argmax(dim=-1))
            values[label, first] = {"disagreement": float((guesses[0] != guesses[1]).double().mean())}
    return Readings(values)


def _in_both(streams: Sequence[Stream], dtype: torch.dtype) -> Tensor:
    """Inputs of the samples of Dataset 1's test pool that both streams have, by their ids."""
    first, second = (stream.test.pools[0] for stream in streams)
    shared = torch.isin(first.ids, second.ids)
    if not bool(shared.any()):
        raise Missing("two seeds have no test sample in common")
    return first.bank.scale(first.bank.x[first.rows[shared]], dtype)


def between(evidence: CellEvidence) -> Readings:
    """``barrier``: how high the loss rises on the straight line between the optima of two seeds; ``distance`` between them,
    over the mean of their distances from 0.

    The loss is that of both seeds' training samples together; the barrier, in nats, is above the higher end
    (`src.evaluation.landscape.barrier`). Seeds two by two as in `agreement`.
    """
    values: dict[tuple[str, int], dict[str, float]] = {}
    for label in labels_of(evidence):
        for first, second in pairs(evidence, label):
            streams = [evidence.factory.build(seed) for seed in (first, second)]
            ends = [ends_of(evidence, label, seed)[-1] for seed in (first, second)]
            x, y = training_samples([part for s in streams for part in s.train], dtype_of(ends[0]))
            model = model_of(evidence, streams[0], ends[0])
            surface = Surface(model, {"both": (x, y)}, evidence.config.loss)
            a, b = (surface.vector(weights) for weights in ends)
            losses = surface.losses([interpolate(a, b, t) for t in along(LINE_POINTS)])["both"]
            values[label, first] = {
                "barrier": barrier(losses, along(LINE_POINTS)).height,
                "distance": float((a - b).norm() / ((a.norm() + b.norm()) / 2)),
            }
    return Readings(values)


# ------------------------------------------------------------------------------------------------ noise of the surface


def noise(evidence: CellEvidence) -> Readings:
    """``loss_slope``, ``gradient_slope``: how the variance of a sample's mean loss, and the mean square of its gradient's
    error, fall with its size n, as slopes of log against log (least squares over n = 10 ... 1,000).

    The weights are those that a run ended with; the samples, up to 400, are of its test set, so the weights do not depend
    on them; draws are with replacement, which makes them independent draws of a distribution that is known exactly.
    """
    values: dict[tuple[str, int], dict[str, float]] = {}
    for label in labels_of(evidence):
        for seed in seeds_of(evidence, label):
            stream = evidence.factory.build(seed)
            weights = ends_of(evidence, label, seed)[-1]
            losses, gradients = _per_sample(evidence, stream, weights)
            values[label, seed] = noise_slopes(losses, gradients, generator(seed, "noise", "surface", evidence.cell))
    return Readings(values)


def noise_slopes(
    losses: NDArray[np.float64], gradients: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, float]:
    """The two slopes from the losses [M] and gradients [M, P] of the samples that are drawn from."""
    of_loss, of_gradient = [], []
    for n in SAMPLE_SIZES:
        shares = rng.multinomial(n, np.full(len(losses), 1 / len(losses)), size=DRAWS) / n
        of_loss.append(float(np.mean((shares @ losses - losses.mean()) ** 2)))
        errors = shares @ gradients - gradients.mean(axis=0)
        of_gradient.append(float(np.mean(np.sum(errors**2, axis=1))))
    slopes = [np.polyfit(np.log(SAMPLE_SIZES), np.log(found), 1)[0] for found in (of_loss, of_gradient)]
    return {"loss_slope": float(slopes[0]), "gradient_slope": float(slopes[1])}


def _per_sample(
    evidence: CellEvidence, stream: Stream, weights: Mapping[str, Tensor]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Loss [M] and gradient [M, P] of every sample."""
    pool = stream.test.pools[0]
    kept = slice(0, MOST_SAMPLES)
    x, y = pool.bank.scale(pool.bank.x[pool.rows[kept]], dtype_of(weights)), pool.y[kept]
    model: nn.Module = model_of(evidence, stream, weights)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = functional_call(model, {**parameters, **buffers}, (x[None],))
        return sample_losses(outputs, y[None], evidence.config.loss)[0]

    with torch.no_grad():
        losses = vmap(loss, in_dims=(None, 0, 0))(parameters, x, y)
    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    flat = torch.cat([g.flatten(1) for g in gradients.values()], dim=1)
    return losses.double().numpy(), flat.double().numpy()


# ------------------------------------------------------------------------------------------------ parts of probes


def labels_of(evidence: CellEvidence) -> list[str]:
    """The regimes that have finished runs."""
    return sorted({label for (label, _), run in evidence.runs.items() if not run.diverged})


def seeds_of(evidence: CellEvidence, label: str) -> list[int]:
    """The seeds at which a regime finished."""
    return sorted(seed for (of, seed), run in evidence.runs.items() if of == label and not run.diverged)


def pairs(evidence: CellEvidence, label: str) -> Iterator[tuple[int, int]]:
    """Seeds two by two: every seed is in one pair, so what is computed of pairs is independent."""
    there = set(seeds_of(evidence, label))
    seeds = evidence.config.seeds
    for first, second in zip(seeds[::2], seeds[1::2], strict=False):
        if {first, second} <= there:
            yield first, second


def training_samples(parts: Sequence[Samples], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Inputs and labels of several sets, one after the other."""
    return torch.cat([part.inputs(dtype) for part in parts]), torch.cat([part.y for part in parts])


PROBES: dict[str, Callable[[CellEvidence], Readings]] = {
    "agreement": agreement,
    "between": between,
    "gap": gap,
    "noise": noise,
    "path": path,
    "prior": prior,
    "variation": variation,
}
