"""Learning curves: several families fitted to measured errors, weighted by held-out fit, predicted with their
uncertainty.

Every family is ``error = offset + slope * phi(n; shape)``. For each shape of a grid, offset and slope have a closed
form (variable projection, Golub & Pereyra 1973), so that thousands of bootstrap replicates are fitted at once: 90,000
fits in 0.3 s, which take `scipy.optimize.curve_fit` 3 ms each. Families and their comparison: Viering & Loog 2023, "The
Shape of Learning Curves".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from src.comparison.statistics import Floats

N_DRAWS = 2000
PRIOR_OFF, PRIOR_RUNS = 0.1, 3
"""Relative error of a forecast by one step that is assumed before any hindcast, and how many of these it counts as."""
SHARPNESS = 2.0
"""Exponent of the families' weights."""
CORRECTED = 0.5
"""Part of the hindcasts' mean error by which forecasts are corrected."""
REACH = 0.5
"""Growth of a forecast's error: that of one step of the sizes x (steps ahead) ** this."""


@dataclass(frozen=True)
class CurveFamily:
    """A family of curves: `phi(x, shape)` falls in x > 0. `has_limit`: whether the offset is its limit, which is no
    error below 0."""

    phi: Callable[[Floats, float], Floats]
    shapes: tuple[float, ...]
    has_offset: bool = True
    has_limit: bool = True

    @property
    def n_parameters(self) -> int:
        return 1 + self.has_offset + (len(self.shapes) > 1)


_EXPONENTS = tuple(np.geomspace(0.1, 2.0, 16).tolist())
FAMILIES: Mapping[str, CurveFamily] = {
    "power": CurveFamily(lambda x, b: x**-b, _EXPONENTS, has_offset=False),
    "power with offset": CurveFamily(lambda x, b: x**-b, _EXPONENTS),
    "logarithm": CurveFamily(lambda x, _: -np.log(x), (0.0,), has_limit=False),
    "arctangent": CurveFamily(lambda x, s: np.pi / 2 - np.arctan(x / s), tuple(np.geomspace(0.01, 3.0, 24).tolist())),
    "constant": CurveFamily(lambda x, _: np.zeros_like(x), (0.0,)),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Measured errors of one candidate: `sizes` [n] ascending, `errors` [n, seeds]. NaN: the run has no value.

    `monotone`: whether more data cannot hurt, because the last stage trains on what is served.
    """

    sizes: Sequence[int]
    errors: Floats
    monotone: bool = False

    @property
    def means(self) -> Floats:
        return np.asarray(np.nanmean(self.errors, axis=1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """Errors at the full size: `draws` [N_DRAWS, candidates], in which candidates share seeds and the error of
    forecasts.

    `weights`: the weight of each family, for each candidate; empty where the full size was measured.
    """

    draws: Floats
    weights: Sequence[Mapping[str, float]] = field(default=())


def fit(family: CurveFamily, sizes: Floats, means: Floats, at: Floats, *, monotone: bool) -> tuple[Floats, Floats]:
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


def _linear(phi: Floats, means: Floats, *, has_offset: bool) -> list[tuple[Floats, Floats]]:
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


def _families(n_sizes: int) -> list[str]:
    """The families that so few sizes determine."""
    return [name for name, family in FAMILIES.items() if family.n_parameters <= n_sizes]


def _predict(curve: Curve, rows: Floats, n_used: int, at: float, names: Sequence[str]) -> Floats:
    """Predictions [k, families] at size `at` from the first `n_used` sizes of `rows`."""
    sizes = np.array(curve.sizes[:n_used], float) / curve.sizes[n_used - 1]
    ahead = np.array([at / curve.sizes[n_used - 1]])
    families = [FAMILIES[name] for name in names]
    return np.concatenate(
        [fit(f, sizes, rows[:, :n_used], ahead, monotone=curve.monotone)[0] for f in families], axis=1
    )


def _noise(curve: Curve) -> float:
    """Variance of the mean over seeds, pooled over sizes; never 0."""
    n = np.isfinite(curve.errors).sum(axis=1)
    with np.errstate(invalid="ignore"):
        variances = np.nanvar(curve.errors, axis=1) / np.maximum(n - 1, 1)
    return float(max(np.nanmean(variances), 1e-8 * max(1.0, float(np.nanmean(curve.errors)) ** 2)))


def _held_out(curve: Curve) -> dict[str, float]:
    """Mean squared error of each family at the larger sizes, each predicted from the sizes below it."""
    scores: dict[str, list[float]] = {}
    for n_used in range(max(2, len(curve.sizes) - 2), len(curve.sizes)):
        names = _families(n_used)
        predicted = _predict(curve, curve.means[None], n_used, curve.sizes[n_used], names)[0]
        for name, value in zip(names, predicted, strict=True):
            scores.setdefault(name, []).append(float((value - curve.means[n_used]) ** 2))
    return {name: float(np.mean(found)) for name, found in scores.items()}


def _weights(curves: Sequence[Curve], scores: Sequence[Mapping[str, float]], names: Sequence[str]) -> Floats:
    """The weight of each family: its inverse squared held-out error, each curve's in units of its own mean over
    families.

    Candidates share the weights, so that a draw takes one family for all, and differences are not those of families.
    """
    relative = []
    for curve, own in zip(curves, scores, strict=True):
        if all(name in own for name in names):
            found = np.array([own[name] for name in names]) + _noise(curve)
            relative.append(found / found.mean())
    inverse = 1.0 / np.mean(relative, axis=0) ** SHARPNESS if relative else np.ones(len(names))
    return np.asarray(inverse / inverse.sum())


def forecast(curves: Sequence[Curve], full: int, n_draws: int = N_DRAWS) -> Forecast:
    """The errors of all candidates at the `full` size.

    Uncertainty: seeds (a Bayesian bootstrap that all candidates share, widened to the variance of a mean), families
    (each draw takes one, by weight), and the error of forecasts, measured by hindcasts: by which share of it the
    forecast of each largest measured error from the smaller sizes was off. Its mean over candidates is common to all,
    the rest is each one's own.
    """
    rng = np.random.default_rng(0)
    n_seeds = max(curve.errors.shape[1] for curve in curves)
    seed_weights = rng.dirichlet(np.ones(n_seeds), n_draws) if n_seeds > 1 else np.ones((n_draws, 1))
    chosen, common = rng.random(n_draws), rng.standard_normal(n_draws)
    scores = [_held_out(curve) for curve in curves]
    bias, shared_off, own_off = _hindcast(curves, scores)
    draws: list[Floats] = []
    all_weights: list[Mapping[str, float]] = []
    for k, curve in enumerate(curves):
        rows = _replicates(curve, seed_weights)
        if curve.sizes[-1] >= full:
            draws.append(np.maximum(rows[:, -1], 0.0))
            all_weights.append({})
            continue
        names = list(scores[k]) or ["constant"]
        same_sizes = [j for j, other in enumerate(curves) if len(other.sizes) == len(curve.sizes)]
        weights = _weights([curves[j] for j in same_sizes], [scores[j] for j in same_sizes], names)
        predictions = _predict(curve, rows, len(curve.sizes), full, names)
        family = np.searchsorted(np.cumsum(weights), chosen, side="right").clip(max=len(names) - 1)
        reach = _reach(curve, full)
        off = reach * (shared_off * common + own_off * rng.standard_normal(n_draws) - bias)
        draws.append(np.maximum(predictions[np.arange(n_draws), family], 0.0) * np.exp(off))
        all_weights.append(dict(zip(names, weights.tolist(), strict=True)))
    return Forecast(draws=np.stack(draws, axis=1), weights=all_weights)


def _reach(curve: Curve, full: int) -> float:
    """Growth of the error of a forecast from one step of the sizes to the full size."""
    if len(curve.sizes) < 2:
        return 1.0
    return float((math.log(full / curve.sizes[-1]) / math.log(curve.sizes[-1] / curve.sizes[-2])) ** REACH)


def _hindcast(curves: Sequence[Curve], scores: Sequence[Mapping[str, float]]) -> tuple[float, float, float]:
    """Relative error of forecasts by one step: what is corrected, what is left in common, and the deviation in each
    candidate.

    A candidate's hindcast weighs families by the held-out errors of the others, so that it does not know its own end.
    """
    off: list[float] = []
    for k, curve in enumerate(curves):
        used = len(curve.sizes) - 1
        if used < 2:
            continue
        names = _families(used)
        others = [j for j in range(len(curves)) if j != k] or [k]
        weights = _weights([curves[j] for j in others], [scores[j] for j in others], names)
        least = math.sqrt(_noise(curve))
        predicted = float(_predict(curve, curve.means[None], used, curve.sizes[-1], names)[0] @ weights)
        off.append(math.log(max(predicted, least) / max(float(curve.means[-1]), least)))
    n, mean = len(off), float(np.mean(off)) if off else 0.0
    deviations = sum((one - mean) ** 2 for one in off)
    bias = CORRECTED * mean
    shared_off = math.sqrt((n * (mean - bias) ** 2 + PRIOR_RUNS * PRIOR_OFF**2) / (n + PRIOR_RUNS))
    own_off = math.sqrt((deviations + PRIOR_RUNS * PRIOR_OFF**2) / (max(n - 1, 0) + PRIOR_RUNS))
    return bias, shared_off, own_off


def _replicates(curve: Curve, seed_weights: Floats) -> Floats:
    """Means over seeds [draws, sizes] under random weights of seeds, spread to the variance of a mean of so few."""
    n = curve.errors.shape[1]
    weights = seed_weights[:, :n, None] * np.isfinite(curve.errors.T)[None]
    total = weights.sum(axis=1)
    weighted = (weights * np.nan_to_num(curve.errors.T)[None]).sum(axis=1) / np.where(total > 0, total, 1)
    weighted = np.where(total > 0, weighted, curve.means)
    widened = math.sqrt((n + 1) / (n - 1)) if n > 1 else 1.0
    return np.asarray(curve.means + widened * (weighted - curve.means))
