"""Samples of Gaussian distributions whose exact risks are known.

Data set k has inputs x = A_k z, z ~ N(0, I), and targets y = w_k* . x + noise: A_k A_k' is its covariance, w_k* its
true weights. With the squared error its expected loss is (w - w_k*)' A_k A_k' (w - w_k*) + noise^2, known without a
test set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from src.data.stream import Bank, Population, Rows, View
from src.io import bytes_digest
from src.seeds import generator

Floats = NDArray[np.float64]
RANK_TOLERANCE = 1e-12
"""Eigenvalues of a covariance below this share of the largest count as 0."""


@dataclass(frozen=True, eq=False)
class Latents:
    """What every data set of a stream is made from, row by row: `z` [n, dim] and `noise` [n, k], standard normal."""

    z: Floats
    noise: Floats


def latents(n_samples: int, dim: int, n_columns: int, seed: int) -> Latents:
    """The latents of a seed. More samples begin with those of fewer."""
    z = generator(seed, "data", "gaussian", "x", dim).standard_normal((n_samples, dim))
    noise = generator(seed, "data", "gaussian", "noise", n_columns).standard_normal((n_samples, n_columns))
    return Latents(z, noise)


def unit_columns(dim: int, n_columns: int) -> Floats:
    """Random weights [dim, n_columns], the same for all seeds, in columns of length 1."""
    weights = generator(0, "data", "gaussian").standard_normal((dim, n_columns))
    return np.asarray(weights / np.linalg.norm(weights, axis=0))


def shifted_target(first: Floats, distance: float, part: int) -> Floats:
    """Dataset 1's true weights [dim] or, for the others, weights at `distance` in a direction orthogonal to them."""
    if not part or not distance:
        return first
    direction = generator(0, "data", "gaussian", "shift", part).standard_normal(len(first))
    direction -= first * (first @ direction)
    return first + distance * np.asarray(direction / np.linalg.norm(direction))


def covariance_root(covariance: Floats) -> Floats:
    """A [dim, r] with A A' = covariance."""
    values, axes = np.linalg.eigh(covariance)
    kept = values > RANK_TOLERANCE * max(values.max(), 0.0)
    return np.asarray(axes[:, kept] * np.sqrt(values[kept]))


def subspace_root(dim: int, rank: int | None, degrees: float) -> Floats:
    """A [dim, rank]: an orthonormal basis at `degrees` to the first `rank` axes; the identity without a rank."""
    identity = np.eye(dim)
    if rank is None:
        return identity
    angle = np.deg2rad(degrees)
    return np.asarray(np.cos(angle) * identity[:, :rank] + np.sin(angle) * identity[:, rank : 2 * rank])


def exact(base: Latents, rows: Rows, rank: int) -> Latents:
    """The latents with those of `rows` whitened over their first `rank` columns, and their noise orthogonal to them.

    Z'Z/n is then the identity and Z'noise 0, so the mean squared error over these rows is exactly the quadratic of
    covariance A A' around the true weights. Needs at least `rank` rows.
    """
    if len(rows) == 0:
        return base
    z, noise = base.z.copy(), base.noise.copy()
    left, _, right = np.linalg.svd(z[rows, :rank], full_matrices=False)
    white = np.sqrt(len(rows)) * left @ right
    z[rows, :rank] = white
    noise[rows] -= white @ (white.T @ noise[rows]) / len(rows)
    return Latents(z, noise)


def population_view(population: Population, drawn: Latents, content: str) -> View:
    """The latents as samples of a distribution; `content` names them."""
    root = population.root
    is_identity = root.shape[0] == root.shape[1] and np.array_equal(root, np.eye(len(root)))
    x = drawn.z if is_identity else drawn.z[:, : root.shape[1]] @ root.T
    y = x @ population.target[:, None] + population.noise * drawn.noise
    return View(Bank(torch.from_numpy(x)), None, torch.from_numpy(y), np.zeros(len(y), np.int64), content, 0)


def population_digest(population: Population) -> str:
    """Names a distribution by its parameters."""
    parameters = (population.root, population.target, np.array(population.noise))
    return bytes_digest(b"".join(repr(values.shape).encode() + values.tobytes() for values in parameters))
