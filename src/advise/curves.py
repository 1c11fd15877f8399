"""Learning curves: several families fitted to measured errors, weighted by held-out fit, predicted with their uncertainty.

Every family is ``error = offset + slope * phi(n; shape)``. For each shape of a grid, offset and slope have a closed form
(variable projection, Golub & Pereyra 1973), so that thousands of bootstrap replicates are fitted at once. Families and their
comparison: Viering & Loog 2023, "The Shape of Learning Curves".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

N_DRAWS = 2000
HINDCAST_SPREAD = 1.0
"""Growth of a forecast's error: hindcast error x (doublings ahead / doublings hindcast) ** this."""


@dataclass(frozen=True)
class Family:
    """A family of curves: `phi(x, shape)` falls in x > 0. `has_limit`: whether the offset is its limit, which is no error below 0."""

    phi: Callable[[Array, float], Array]
    shapes: tuple[float, ...]
    has_offset: bool = True
    has_limit: bool = True

    @property
    def n_parameters(self) -> int:
        return 1 + self.has_offset + (len(self.shapes) > 1)


_EXPONENTS = tuple(np.geomspace(0.1, 2.0, 16).tolist())
FAMILIES: Mapping[str, Family] = {
    "power": Family(lambda x, b: x**-b, _EXPONENTS, has_offset=False),
    "power with offset": Family(lambda x, b: x**-b, _EXPONENTS),
    "logarithm": Family(lambda x, _: -np.log(x), (0.0,), has_limit=False),
    "arctangent": Family(lambda x, s: np.pi / 2 - np.arctan(x / s), tuple(np.geomspace(0.01, 3.0, 24).tolist())),
    "constant": Family(lambda x, _: np.zeros_like(x), (0.0,)),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Measured errors of one candidate: `sizes` [n] ascending, `errors` [n, seeds]. NaN: the run has no value.

    `monotone`: whether more data cannot hurt, because the last stage trains on what is served.
    """

    sizes: Sequence[int]
    errors: Array
    monotone: bool = False

    @property
    def means(self) -> Array:
        return np.asarray(np.nanmean(self.errors, axis=1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """Errors at the full size: `draws` [N_DRAWS, candidates], in which candidates share seeds and the error of forecasts.

    `weights`: the weight of each family, for each candidate; empty where the full size was measured.
    """

    draws: Array
    weights: Sequence[Mapping[str, float]] = field(default=())


def fit(family: Family, sizes: Array, means: Array, at: Array, *, monotone: bool) -> tuple[Array, Array]:
    """Least-squares fits of the rows of `means` [k, sizes]; returns predictions [k, at] and the sum of squares [k].

    An offset is at least 0, as errors are; with `monotone` the slope is too.
    """
    best, predicted = np.full(len(means), np.inf), np.zeros((len(means), len(at)))
    for shape in family.shapes:
        phi, ahead = family.phi(sizes, shape), family.phi(at, shape)
        for offset, slope in _linear(phi, means, has_offset=family.has_offset):
            residual = ((offset[:, None] + slope[:, None] * phi - means) ** 2).sum(axis=1)
            allowed = (slope >= 0) | (not monotone)
            if family.has_limit:
                allowed &= offset >= 0
            better = allowed & (residual < best - 1e-15)
            best[better] = residual[better]
            predicted[better] = (offset[:, None] + slope[:, None] * ahead)[better]
    return np.maximum(predicted, 0.0), best


def _linear(phi: Array, means: Array, *, has_offset: bool) -> list[tuple[Array, Array]]:
    """(offset, slope) of least squares: free, without offset, and without slope."""
    zero, centred = np.zeros(len(means)), phi - phi.mean()
    found = []
    if phi @ phi > 0:
        found.append((zero, means @ phi / (phi @ phi)))
    if has_offset:
        found.append((means.mean(axis=1), zero))
        if centred @ centred > 1e-18:
            slope = means @ centred / (centred @ centred)
            found.append((means.mean(axis=1) - slope * phi.mean(), slope))
    return found


def _ensemble(
    curve: Curve, rows: Array, n_used: int, at: float, scores: Mapping[str, float] | None
) -> tuple[Array, dict[str, float]]:
    """Predictions [k, families] at size `at` from the first `n_used` sizes of `rows`, and the families' weights.

    `scores`: mean squared held-out error of each family; None: from the fit itself.
    """
    scale = float(curve.sizes[n_used - 1])
    sizes, ahead = np.array(curve.sizes[:n_used]) / scale, np.array([at / scale])
    noise = _noise(curve)
    predictions, found = [], {}
    for name, family in FAMILIES.items():
        if family.n_parameters > n_used or (scores is not None and name not in scores):
            continue
        predicted, residual = fit(family, sizes, rows[:, :n_used], ahead, monotone=curve.monotone)
        predictions.append(predicted[:, 0])
        mse = residual.mean() / max(1, n_used - family.n_parameters) if scores is None else scores[name]
        found[name] = 1.0 / (mse + noise)
    total = sum(found.values())
    return np.stack(predictions, axis=1), {name: weight / total for name, weight in found.items()}


def _noise(curve: Curve) -> float:
    """Variance of the mean over seeds, pooled over sizes; never 0."""
    n = np.isfinite(curve.errors).sum(axis=1)
    with np.errstate(invalid="ignore"):
        variances = np.nanvar(curve.errors, axis=1) * n / np.maximum(n - 1, 1) / n
    return float(max(np.nanmean(variances), 1e-8 * max(1.0, float(np.nanmean(curve.errors)) ** 2)))


def _held_out(curve: Curve) -> dict[str, float]:
    """Mean squared error of each family at the larger sizes, each predicted from the sizes below it."""
    means, sizes = curve.means[None], np.array(curve.sizes, float)
    scores: dict[str, list[float]] = {}
    for n_used in range(max(2, len(sizes) - 2), len(sizes)):
        for name, family in FAMILIES.items():
            if family.n_parameters <= n_used:
                x = sizes / sizes[n_used - 1]
                predicted, _ = fit(
                    family, x[:n_used], means[:, :n_used], x[n_used : n_used + 1], monotone=curve.monotone
                )
                scores.setdefault(name, []).append(float((predicted[0, 0] - means[0, n_used]) ** 2))
    return {name: float(np.mean(found)) for name, found in scores.items()}


def forecast(curves: Sequence[Curve], full: int, seed: int = 0, n_draws: int = N_DRAWS) -> Forecast:
    """The errors of all candidates at the `full` size.

    Uncertainty: seeds (a Bayesian bootstrap that all candidates share, widened to the variance of a mean), families (each
    draw takes one, by weight), and the error of forecasts, measured by hindcasts: how far the forecast of each largest
    measured size from the smaller ones was off. Its mean over candidates is common to all, the rest is each one's own.
    """
    rng = np.random.default_rng(seed)
    n_seeds = max(curve.errors.shape[1] for curve in curves)
    seed_weights = rng.dirichlet(np.ones(n_seeds), n_draws) if n_seeds > 1 else np.ones((n_draws, 1))
    chosen, common = rng.random(n_draws), rng.standard_normal(n_draws)
    errors_ahead, own_ahead = _hindcast_spread(curves, full)
    draws: list[Array] = []
    all_weights: list[Mapping[str, float]] = []
    for curve, own in zip(curves, own_ahead, strict=True):
        rows = _replicates(curve, seed_weights)
        if curve.sizes[-1] >= full:
            draws.append(np.maximum(rows[:, -1], 0.0))
            all_weights.append({})
            continue
        predictions, weights = _ensemble(curve, rows, len(curve.sizes), full, _held_out(curve))
        family = np.searchsorted(np.cumsum(list(weights.values())), chosen, side="right").clip(max=len(weights) - 1)
        drawn = predictions[np.arange(n_draws), family]
        drawn = drawn + errors_ahead * common + own * rng.standard_normal(n_draws)
        draws.append(np.maximum(drawn, 0.0))
        all_weights.append(weights)
    return Forecast(draws=np.stack(draws, axis=1), weights=all_weights)


def _replicates(curve: Curve, seed_weights: Array) -> Array:
    """Means over seeds [draws, sizes] under random weights of seeds, spread to the variance of a mean of so few."""
    n = curve.errors.shape[1]
    weights = seed_weights[:, :n, None] * np.isfinite(curve.errors.T)[None]
    total = weights.sum(axis=1)
    weighted = (weights * np.nan_to_num(curve.errors.T)[None]).sum(axis=1) / np.where(total > 0, total, 1)
    weighted = np.where(total > 0, weighted, curve.means)
    widened = math.sqrt((n + 1) / (n - 1)) if n > 1 else 1.0
    return np.asarray(curve.means + widened * (weighted - curve.means))


def _hindcast_spread(curves: Sequence[Curve], full: int) -> tuple[float, list[float]]:
    """Standard deviation of the forecasts' common error, and of each candidate's own."""
    ahead, off = [], []
    for curve in curves:
        if len(curve.sizes) >= 3 and curve.sizes[-1] < full:
            used = len(curve.sizes) - 1
            predictions, weights = _ensemble(curve, curve.means[None], used, curve.sizes[-1], None)
            off.append(float(predictions[0] @ np.array(list(weights.values())) - curve.means[-1]))
            doublings = math.log(curve.sizes[-1] / curve.sizes[-2])
            ahead.append((math.log(full / curve.sizes[-1]) / doublings) ** HINDCAST_SPREAD)
        else:
            ahead.append(0.0)
    if not off:
        return 0.0, [0.0] * len(curves)
    shared = float(np.mean(off))
    own = float(np.std(off, ddof=1)) if len(off) > 1 else abs(shared)
    reach = max(ahead)
    return abs(shared) * reach, [own * one for one in ahead]
