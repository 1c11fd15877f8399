"""The Gaussian generator: distributions whose exact risks are known, and the samples that a stream draws from them.

Data set k has inputs x = A_k z, z ~ N(0, I), and targets y = w_k* . x + noise: A_k A_k' is its covariance, w_k* its true
weights. With the squared error its expected loss is (w - w_k*)' A_k A_k' (w - w_k*) + noise^2, known without a test set.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from src.data.config import GaussianData
from src.data.draw import Rows
from src.data.stream import Bank, Population
from src.data.views import View
from src.seeds import generator

Floats = NDArray[np.float64]
RANK_TOLERANCE = 1e-12
"""Eigenvalues of a covariance below this share of the largest count as 0."""


@dataclass(frozen=True, eq=False)
class Latents:
    """What every data set of a stream is made from, row for row: `z` [n, d] and `noise` [n, k], both standard normal."""

    z: Floats
    noise: Floats


def true_weights(data: GaussianData) -> Floats:
    """The true weights w* [d, k] of Dataset 1: columns of length 1, k = 1 for regression."""
    n_columns = 1 if data.target == "regression" else data.n_classes
    weights = generator(0, "data", "gaussian").standard_normal((data.dim, n_columns))
    return np.asarray(weights / np.linalg.norm(weights, axis=0))


def latents(data: GaussianData, seed: int) -> Latents:
    """The latents of a seed; `draw=pool` has those of seed 0 for all. More samples begin with those of fewer."""
    owner = 0 if data.draw == "pool" else seed
    n_columns = 1 if data.target == "regression" else data.n_classes
    z = generator(owner, "data", "gaussian", "x", data.dim).standard_normal((data.n_samples, data.dim))
    noise = generator(owner, "data", "gaussian", "noise", n_columns).standard_normal((data.n_samples, n_columns))
    return Latents(z, noise)


def populations(data: GaussianData, n_parts: int) -> tuple[Population, ...]:
    """The distribution of every data set of a regression; equal ones are one object."""
    assert data.target == "regression"
    made: list[Population] = []
    for part in range(n_parts):
        mine = Population(_root(data, part), _target(data, part), data.noise)
        same = (p for p in made if np.array_equal(p.root, mine.root) and np.array_equal(p.target, mine.target))
        made.append(next(same, mine))
    return tuple(made)


def _target(data: GaussianData, part: int) -> Floats:
    """The true weights [d] of one data set: those given, or Dataset 1's and, for the others, `target_shift` beside them."""
    if data.weights is not None:
        return np.array(data.weights[part])
    first = true_weights(data)[:, 0]
    return first + data.target_shift * _direction(first, part) if part and data.target_shift else first


def _direction(first: Floats, part: int) -> Floats:
    """A unit vector orthogonal to Dataset 1's true weights, one for each data set."""
    drawn = generator(0, "data", "gaussian", "shift", part).standard_normal(len(first))
    drawn -= first * (first @ drawn)
    return np.asarray(drawn / np.linalg.norm(drawn))


def _root(data: GaussianData, part: int) -> Floats:
    """A_k [d, r]: of the given covariance, of the subspace at its angle, or the identity."""
    if data.covariances is not None:
        values, axes = np.linalg.eigh(np.array(data.covariances[part]))
        kept = values > RANK_TOLERANCE * max(values.max(), 0.0)
        return np.asarray(axes[:, kept] * np.sqrt(values[kept]))
    identity = np.eye(data.dim)
    if data.rank is None:
        return identity
    angle = np.deg2rad(data.angle * part)
    turned = np.cos(angle) * identity[:, : data.rank] + np.sin(angle) * identity[:, data.rank : 2 * data.rank]
    return np.asarray(turned)


def population_views(
    data: GaussianData, source_digest: str, found: Sequence[Population], train: Sequence[Rows], seed: int
) -> list[View]:
    """Every data set's view of the latents of `seed`; equal distributions share a view, but for `draw=exact`.

    `train[k]`: rows of Dataset k+1, which `exact` adjusts.
    """
    base = latents(data, seed)
    views: dict[object, View] = {}
    for part, (population, rows) in enumerate(zip(found, train, strict=True)):
        address = part if data.draw == "exact" else id(population)
        if address not in views:
            drawn = _exact(base, rows, population.root.shape[1]) if data.draw == "exact" else base
            name = f"{source_digest} population={_digest(population)}"
            name += "" if data.draw == "pool" else f" seed={seed}"
            name += f" exact={hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest()}" * (data.draw == "exact")
            views[address] = _view(population, drawn, name)
    return [views[part if data.draw == "exact" else id(p)] for part, p in enumerate(found)]


def _view(population: Population, drawn: Latents, content: str) -> View:
    root = population.root
    is_identity = root.shape[0] == root.shape[1] and np.array_equal(root, np.eye(len(root)))
    x = drawn.z if is_identity else drawn.z[:, : root.shape[1]] @ root.T
    y = x @ population.target[:, None] + population.noise * drawn.noise
    return View(Bank(torch.from_numpy(x)), None, torch.from_numpy(y), np.zeros(len(y), np.int64), content, 0)


def _exact(base: Latents, rows: Rows, rank: int) -> Latents:
    """The latents with those of `rows` whitened over their first `rank` columns, and their noise made orthogonal to them.

    Z'Z/n is then the identity and Z'noise 0, so the mean squared error over these rows is exactly the quadratic of
    covariance A A' around the true weights. Needs at least `rank` rows.
    """
    z, noise = base.z.copy(), base.noise.copy()
    if len(rows) == 0:
        return base
    left, _, right = np.linalg.svd(z[rows, :rank], full_matrices=False)
    white = np.sqrt(len(rows)) * left @ right
    z[rows, :rank] = white
    noise[rows] -= white @ (white.T @ noise[rows]) / len(rows)
    return Latents(z, noise)


def _digest(population: Population) -> str:
    h = hashlib.blake2b(digest_size=8)
    for values in (population.root, population.target, np.array(population.noise)):
        h.update(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes())
    return h.hexdigest()


def parameters_digest(data: GaussianData) -> str:
    """Names the generator by its parameters: its samples follow from them."""
    parameters = {key: value for key, value in dataclasses.asdict(data).items() if key != "root"}
    return hashlib.blake2b(repr(sorted(parameters.items())).encode(), digest_size=16).hexdigest()
