"""Linear regression given its design matrix: where gradient descent ends, with no average over data.

Descent from w on data (X, y) with squared loss moves inside the row space of X only, so it converges to the affine
projection of w on the least-squares solutions: w -> (I - P) w + X^+ y, P = X^+ X (Evron et al. 2022, "How catastrophic
can catastrophic forgetting be in linear regression?"). A trained run is compared with these weights on its own matrix.

Shapes: inputs (n, d), targets (n,), weights (d,); n may be 0. Everything is float64. Exact for every shape and rank;
numerically the error grows with the condition number, so compare to 1e-6 only where that is at most 1,000.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.comparison.statistics import Floats

Part = tuple[Floats, Floats]
RANK_TOLERANCE = 1e-12  # singular values below this share of the largest count as 0


def affine_projection(start: Floats, inputs: Floats, targets: Floats) -> Floats:
    """The end of one converged stage: the least-squares solution nearest to `start`, start + X^+ (y - X start).

    Source: Evron et al. 2022, section 2; pseudo-inverse by SVD. Valid for every n, d and rank.
    """
    residual = targets - inputs @ start
    left, values, right = np.linalg.svd(inputs, full_matrices=False)
    kept = values > RANK_TOLERANCE * values.max(initial=0.0)
    moved: Floats = start + right[kept].T @ ((left[:, kept].T @ residual) / values[kept])
    return moved


def sequential_weights(start: Floats, parts: Sequence[Part]) -> list[Floats]:
    """The weights after each stage of sequential training: one projection per part (Evron et al. 2022)."""
    weights, ends = start, []
    for inputs, targets in parts:
        weights = affine_projection(weights, inputs, targets)
        ends.append(weights)
    return ends


def combined_weights(start: Floats, parts: Sequence[Part]) -> Floats:
    """The weights of combined training: one affine projection from `start` on the parts stacked.

    A warm start through growing unions ends at the same weights, whatever n and d, because its earlier moves lie in the
    row space of the union; a shrunk or perturbed start does so only if the union has rank d.
    """
    inputs, targets = zip(*parts, strict=True)
    return affine_projection(start, np.concatenate(inputs), np.concatenate(targets))


def weights_after(start: Floats, inputs: Floats, targets: Floats, *, lr: float, n_steps: int) -> Floats:
    """The weights after exactly `n_steps` of full-batch descent: a stage stopped too early, or at too low a rate.

    Of the mean squared error, whose Hessian is 2 X^T X / n. Valid for n >= 1, every constant rate and plain descent (no
    momentum, no decay). Source: after T steps (1 - lr l)^T of the error along an eigenvector of the Hessian remains; it
    vanishes for 0 < lr l < 2, grows above 2, stays for l = 0.
    """
    end = affine_projection(start, inputs, targets)
    _, values, right = np.linalg.svd(inputs, full_matrices=False)
    left_over = (1.0 - lr * 2.0 * values**2 / len(inputs)) ** n_steps
    # Off the row space start and end agree, so the rows of `right` carry the whole difference.
    result: Floats = end + right.T @ (left_over * (right @ (start - end)))
    return result
