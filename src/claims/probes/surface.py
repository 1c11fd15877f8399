"""Probes of the loss surface at trained weights: its `curvature`, its `noise`, and the `overwriting` of weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from src.claims.cell import CellRuns, ProbeResult, dtype_of, training_samples
from src.comparison.statistics import Floats
from src.data.stream import Stream
from src.evaluation.drift import Weights
from src.evaluation.landscape import Surface, along, interpolate
from src.evaluation.metrics import sample_losses
from src.models.build import build_model
from src.seeds import generator

N_DIRECTIONS = 20


def curvature(cell: CellRuns) -> ProbeResult:
    """Curvature of the loss on Dataset 1's training samples at the final weights of a run, in nats.

    ``sharpness``: the largest eigenvalue of the Hessian (Lanczos); ``random``: the mean of v'Hv over 20 directions v of
    length 1, uniform on the sphere, which estimates the trace over the number of parameters (Hutchinson 1990).
    """
    values = {}
    for label, seed in cell.finished():
        stream, weights = cell.factory.build(seed), cell.final_weights(label, seed)
        samples = training_samples([stream.train[0]], dtype_of(weights))
        surface = Surface(cell.model(stream, weights), {"train": samples}, cell.config.loss)
        gradient, point = grad(surface.loss_of("train")), surface.vector(weights)

        def product(direction: Floats) -> Floats:
            tangent = torch.as_tensor(direction).reshape(point.shape)  # noqa: B023
            changed: Tensor = jvp(gradient, (point,), (tangent,))[1]  # noqa: B023
            return np.asarray(changed.numpy(), np.float64)

        n = len(point)
        rng = generator(seed, "noise", "curvature", cell.cell)
        hessian = LinearOperator((n, n), matvec=product, dtype=np.float64)
        largest = eigsh(hessian, k=1, which="LA", tol=1e-3, v0=rng.normal(size=n), return_eigenvectors=False)[0]
        directions = rng.normal(size=(N_DIRECTIONS, n))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        along_random = np.mean([v @ product(v) for v in directions])
        values[label, seed] = {"sharpness": float(largest), "random": float(along_random)}
    return ProbeResult(values)


N_DRAWS = 400
N_LINE_POINTS = 21
SAMPLE_SIZES = (10, 30, 100, 300, 1000)
MAX_POOL = 400
"""Size of the pool that represents the distribution; bounded because each sample has its own gradient in memory."""


def noise(cell: CellRuns) -> ProbeResult:
    """``surface_error``: root mean square of the loss on Dataset 1's training samples minus that on its test set, over
    the straight line from a run's initial to its final weights: a line that the training samples have chosen.

    ``loss_slope``, ``gradient_slope``: slopes of log noise against log sample size, by least squares, at weights that
    the samples have not chosen: -1 by the arithmetic of averages. The noise is the variance of a sample's mean loss,
    and the mean squared error of its mean gradient, at the final weights of a run. Samples come from the test set, so
    the weights do not depend on them. Draws are with replacement, which makes them independent draws from a known
    distribution.
    """
    values = {}
    for label, seed in cell.finished():
        stream, weights = cell.factory.build(seed), cell.final_weights(label, seed)
        losses, gradients = per_sample(cell, stream, weights)
        slopes = noise_slopes(losses, gradients, generator(seed, "noise", "surface", cell.cell))
        values[label, seed] = {**slopes, "surface_error": _surface_error(cell, stream, weights)}
    return ProbeResult(values)


def _surface_error(cell: CellRuns, stream: Stream, weights: Weights) -> float:
    dtype = dtype_of(weights)
    initial = build_model(cell.config.arch, stream.input_shape, stream.n_outputs, stream.seed, dtype)
    sets = {
        "train": training_samples([stream.train[0]], dtype),
        "test": training_samples([stream.test.pools[0]], dtype),
    }
    surface = Surface(initial, sets, cell.config.loss)
    start, end = (surface.vector(state) for state in (initial.state_dict(), weights))
    losses = surface.losses([interpolate(start, end, t) for t in along(N_LINE_POINTS)])
    return float(np.sqrt(np.mean(np.subtract(losses["train"], losses["test"]) ** 2)))


def noise_slopes(losses: Floats, gradients: Floats, rng: np.random.Generator) -> dict[str, float]:
    """Both slopes from the losses [pool] and gradients [pool, parameters] of the pool."""
    loss_noise, gradient_noise = [], []
    for n in SAMPLE_SIZES:
        shares = rng.multinomial(n, np.full(len(losses), 1 / len(losses)), size=N_DRAWS) / n
        loss_noise.append(float(np.mean((shares @ losses - losses.mean()) ** 2)))
        errors = shares @ gradients - gradients.mean(axis=0)
        gradient_noise.append(float(np.mean(np.sum(errors**2, axis=1))))
    slopes = [float(np.polyfit(np.log(SAMPLE_SIZES), np.log(values), 1)[0]) for values in (loss_noise, gradient_noise)]
    return {"loss_slope": slopes[0], "gradient_slope": slopes[1]}


def per_sample(cell: CellRuns, stream: Stream, weights: Mapping[str, Tensor]) -> tuple[Floats, Floats]:
    """Loss [pool] and gradient [pool, parameters] of every sample."""
    pool = stream.test.pools[0]
    kept = torch.arange(min(len(pool), MAX_POOL))
    x, y = pool.inputs(dtype_of(weights), kept), pool.y[kept]
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
