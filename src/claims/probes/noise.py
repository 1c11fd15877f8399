"""Probe `noise`: how the sampling noise of the loss surface falls with the sample size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from src.claims.cell import CellRuns, ProbeResult, dtype_of
from src.data.stream import Stream
from src.evaluation.metrics import sample_losses
from src.seeds import generator

N_DRAWS = 400
SAMPLE_SIZES = (10, 30, 100, 300, 1000)
MAX_POOL = 400
"""Size of the pool that represents the distribution; bounded because each sample has its own gradient in memory."""


def noise(cell: CellRuns) -> ProbeResult:
    """``loss_slope``, ``gradient_slope``: slopes of log noise against log sample size, by least squares.

    The noise is the variance of a sample's mean loss, and the mean squared error of its mean gradient, at the final weights
    of a run. Samples come from the test set, so the weights do not depend on them. Draws are with replacement, which makes
    them independent draws from a known distribution.
    """
    values = {}
    for label, seed in cell.finished():
        losses, gradients = _per_sample(cell, cell.factory.build(seed), cell.final_weights(label, seed))
        values[label, seed] = noise_slopes(losses, gradients, generator(seed, "noise", "surface", cell.cell))
    return ProbeResult(values)


def noise_slopes(
    losses: NDArray[np.float64], gradients: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, float]:
    """Both slopes from the losses [pool] and gradients [pool, parameters] of the pool."""
    loss_noise, gradient_noise = [], []
    for n in SAMPLE_SIZES:
        shares = rng.multinomial(n, np.full(len(losses), 1 / len(losses)), size=N_DRAWS) / n
        loss_noise.append(float(np.mean((shares @ losses - losses.mean()) ** 2)))
        errors = shares @ gradients - gradients.mean(axis=0)
        gradient_noise.append(float(np.mean(np.sum(errors**2, axis=1))))
    slopes = [float(np.polyfit(np.log(SAMPLE_SIZES), np.log(values), 1)[0]) for values in (loss_noise, gradient_noise)]
    return {"loss_slope": slopes[0], "gradient_slope": slopes[1]}


def _per_sample(
    cell: CellRuns, stream: Stream, weights: Mapping[str, Tensor]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Loss [pool] and gradient [pool, parameters] of every sample."""
    pool = stream.test.pools[0]
    kept = slice(0, MAX_POOL)
    x, y = pool.bank.scale(pool.bank.x[pool.rows[kept]], dtype_of(weights)), pool.y[kept]
    model: nn.Module = cell.model(stream, weights)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = functional_call(model, {**parameters, **buffers}, (x[None],))
        return sample_losses(outputs, y[None], cell.config.loss)[0]

    with torch.no_grad():
        losses = vmap(loss, in_dims=(None, 0, 0))(parameters, x, y)
    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    flat = torch.cat([g.flatten(1) for g in gradients.values()], dim=1)
    return losses.double().numpy(), flat.double().numpy()
