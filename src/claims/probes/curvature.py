"""Probe `curvature`: how smooth the training loss is around trained weights."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.func import grad, jvp

from src.claims.cell import CellRuns, ProbeResult, dtype_of, training_samples
from src.evaluation.landscape import Surface
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

        def product(direction: NDArray[np.float64]) -> NDArray[np.float64]:
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
