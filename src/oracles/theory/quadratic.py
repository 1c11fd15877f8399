"""Quadratic losses L_i(w) = (w - o_i)' H_i (w - o_i) / 2: where every regime ends, and the path it takes.

o_i (d,) is the optimum and H_i (d, d) the Hessian, symmetric and positive semidefinite, of the *mean* loss of data set
i; n_i its number of samples. Linear regression is the special case H_i = c X_i' X_i / n_i.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.comparison.statistics import Floats


def combined_optimum(hessians: Sequence[Floats], optima: Sequence[Floats], sizes: Sequence[float]) -> Floats:
    """The minimum of the loss over all data, (sum n_i H_i)^-1 sum n_i H_i o_i. Valid if the sum has full rank.

    `sizes` need not be whole: (1, rho) gives the minimum of L_1 + rho L_2.
    """
    weighted = [size * hessian for hessian, size in zip(hessians, sizes, strict=True)]
    pulls = [own @ optimum for own, optimum in zip(weighted, optima, strict=True)]
    return np.asarray(np.linalg.solve(np.sum(weighted, axis=0), np.sum(pulls, axis=0)))


def ewc_optimum(hessian: Floats, optimum: Floats, anchor: Floats, fisher: Floats, weight: float) -> Floats:
    """Where stage 2 ends under EWC: the minimum of L_2(w) + (weight/2) (w - anchor)' F (w - anchor).

    With anchor = o_1, F = the full H_1 and weight = n1/n2, at which a stage on the mean loss of Dataset 2 counts
    Dataset 1 as combined does, this *is* `combined_optimum`, exactly, for quadratic losses; with F = diag(H_1) it is
    not, unless H_1 is diagonal. Valid if H_2 + weight F has full rank.
    Source: Kirkpatrick et al. 2017 (Laplace approximation, exact here); Huszar 2018.
    """
    return combined_optimum([hessian, fisher], [optimum, anchor], [1.0, weight])


def lwf_weights(before: Floats, sequential: Floats, new_share: float) -> Floats:
    """Where learning without forgetting ends: the weight average (1-a) w1 + a w_seq.

    Setting: linear model, squared losses on Dataset 2's inputs, a |X2 w - y2|^2 + (1-a) |X2 w - X2 w1|^2 with a =
    `new_share` in [0, 1], descent from `before` = w1 to convergence; `sequential` = w_seq is the end of the same stage
    at a = 1. A penalty of weight l on an unscaled loss is a = 1/(1+l). Valid for every n2, d and rank: the projection
    is affine in the targets.
    """
    return (1.0 - new_share) * before + new_share * sequential


def flow_path(hessian: Floats, optimum: Floats, start: Floats, times: Floats) -> Floats:
    """The path of stage 2 under gradient flow, o2 + exp(-s H2)(start - o2), one row (d,) for each time s >= 0 (inf
    too).

    Descent at rate lr follows it at s = lr x steps as lr -> 0.
    """
    values, axes = np.linalg.eigh(hessian)
    along = axes.T @ (start - optimum)
    # A flat direction (eigenvalue 0) never moves, even after infinite time, where 0 * inf has no value.
    exponents = np.zeros((len(times), len(optimum)))
    curved = values > 1e-13 * max(float(values[-1]), 0.0)
    exponents[:, curved] = -times[:, None] * values[curved]
    path: Floats = optimum + (np.exp(exponents) * along) @ axes.T
    return path


def path_distance(hessian: Floats, optimum: Floats, start: Floats, target: Floats, n_grid: int = 2000) -> float:
    """Least distance from the flow path of stage 2 to `target` (the combined optimum), over |start - optimum|.

    0 when H_1 and H_2 are multiples of the identity: the path is then the straight segment on which the combined
    optimum lies. In general it is above 0: no early stopping of sequential gives combined. Computed on a logarithmic
    grid of times, both ends included, then by golden section around every local minimum; valid for start != optimum,
    H_2 not 0.
    """
    values = np.linalg.eigvalsh(hessian)
    slowest = float(values[values > 1e-13 * values[-1]][0])

    def distance(times: Floats) -> Floats:
        return np.asarray(np.linalg.norm(flow_path(hessian, optimum, start, times) - target, axis=1))

    grid = np.concatenate([[0.0], np.geomspace(1e-6 / values[-1], 50.0 / slowest, n_grid), [np.inf]])
    gaps = distance(grid)
    best = float(gaps.min())
    inner = np.flatnonzero((gaps[1:-2] <= gaps[:-3]) & (gaps[1:-2] <= gaps[2:-1])) + 1
    golden = (np.sqrt(5.0) - 1.0) / 2.0  # no parabolas: the distance has a kink where the path meets the target
    for index in inner:
        low, high = float(grid[index - 1]), float(grid[index + 1])
        for _ in range(60):
            left, right = high - golden * (high - low), low + golden * (high - low)
            at_left, at_right = distance(np.array([left, right]))
            low, high = (low, right) if at_left <= at_right else (left, high)
            best = min(best, float(at_left), float(at_right))
    return best / float(np.linalg.norm(start - optimum))
