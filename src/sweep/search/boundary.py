"""`search=boundary`: where the sign of the difference of two regimes changes, over two or three numeric axes.

Two Gaussian processes (scikit-learn) describe the paired differences: one the logarithm of their standard deviation,
the other the *effect*, mean / deviation, whose sign is that of the difference and whose noise is 1 / sqrt(seeds)
everywhere (the two steps of Kersting et al. 2007, ICML 393). The next seeds go where they lower the expected number of
points of the map with a wrong sign most for their cost: stepwise uncertainty reduction (Bect et al. 2012, Stat. Comput.
22:773). A point may be measured again.

Let the effect at a point of the map have mean m and deviation s, and let r be its correlation with the new measurement.
Then the new mean has the deviation r s, the deviation that is left is s sqrt(1 - r^2), and the expected probability of
a wrong sign is 2 T(m / s, sqrt(1 - r^2) / r) with Owen's function T. Without a measurement, r = 0, it is Phi(-|m| / s).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from src.config import SearchConfig
from src.config.space import Point, Space, rounded
from src.errors import ConfigError

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor

Floats = NDArray[np.float64]

LEVELS = {2: 33, 3: 13}
"""Number of axes -> points of the map along each."""
N_FIRST = 8
"""Points of a scrambled Sobol' sequence before the model chooses."""
WRONG = 0.05
"""A sign is certain if it is wrong with at most this probability."""
N_CANDIDATES = 250
"""Points of the map with the least certain signs, of which the next one is chosen; those measured so far are added."""


@dataclass(frozen=True)
class MeasuredPoint:
    """The differences of the seeds at one point, in units of the space."""

    where: Floats
    differences: Floats


@dataclass(frozen=True)
class Map:
    """What is known of the effect. `where` [points, axes]: from 0 to 1; `mean`, `deviation` [points]."""

    where: Floats
    mean: Floats
    deviation: Floats
    model: GaussianProcessRegressor

    @property
    def wrong(self) -> Floats:
        """Probability that the sign of the mean is wrong, for each point."""
        from scipy.special import ndtr

        return np.asarray(ndtr(-np.abs(self.mean) / self.deviation))

    @property
    def certain(self) -> float:
        """Share of the map whose sign is certain."""
        return float(np.mean(self.wrong <= WRONG))

    def expected_wrong(self, candidates: Floats, n_seeds: int) -> Floats:
        """Expected share of wrong signs after `n_seeds` further seeds at each of the candidates."""
        from scipy.special import owens_t

        _, joint = self.model.predict(np.vstack([candidates, self.where]), return_cov=True)
        k = len(candidates)
        spread = np.sqrt(np.diag(joint)[:k, None] + 1 / n_seeds) * np.sqrt(np.diag(joint)[k:])
        r = np.clip(np.abs(joint[:k, k:]) / spread, 1e-9, 1 - 1e-9)
        ratio = np.abs(self.mean) / self.deviation
        return np.asarray(2 * owens_t(ratio, np.sqrt(1 - r**2) / r).mean(axis=1))


def check_axes(space: Space) -> None:
    """Raises ConfigError for a space that has no boundary to draw."""
    for key, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            problem = "is no interval; a boundary lies between numbers, e.g. interval(0,1) or int(interval(1,20))"
            raise ConfigError(key, ",".join(map(str, distribution.choices)), problem)
    if len(space) not in LEVELS:
        raise ConfigError("search", "boundary", f"needs two or three axes, not {len(space)}")


def measured(trials: Sequence[FrozenTrial], space: Space) -> list[MeasuredPoint]:
    """The differences at each point, from the finished trial with the most seeds."""
    found: dict[tuple[Any, ...], MeasuredPoint] = {}
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    for trial in sorted(finished, key=lambda trial: len(trial.user_attrs["differences"])):
        differences = np.array(trial.user_attrs["differences"])
        found[tuple(trial.params.values())] = MeasuredPoint(_unit(trial.params, space), differences)
    return list(found.values())


def map_of(points: Sequence[MeasuredPoint], n_axes: int) -> Map:
    """Fits the processes to the measured points."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    def fitted(values: Floats, noise: Floats, lengths: tuple[float, float]) -> GaussianProcessRegressor:
        kernel = ConstantKernel(1.0, (0.05, 50)) * Matern(np.full(n_axes, 0.5), lengths, nu=2.5)
        model = GaussianProcessRegressor(kernel, alpha=noise, n_restarts_optimizer=1, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ConvergenceWarning
            )  # a length at its bound: the map is flat along that axis
            return model.fit(where, values)

    where = np.array([point.where for point in points])
    n = np.array([len(point.differences) for point in points])
    variances = np.array([point.differences.var(ddof=1) for point in points])
    logs = np.log(np.maximum(variances, 1e-4 * variances.mean() or 1.0))  # equal results have no variance
    centre = float(np.average(logs, weights=n - 1))
    spread = fitted(logs - centre, 2 / (n - 1) + 0.01, (0.3, 5.0)).predict(where) + centre
    effect = np.array([point.differences.mean() for point in points]) / np.exp(spread / 2)
    model = fitted(effect, 1 / n, (0.1, 5.0))
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, LEVELS[n_axes])] * n_axes, indexing="ij"), axis=-1).reshape(
        -1, n_axes
    )
    mean, deviation = model.predict(grid, return_std=True)
    return Map(grid, mean, np.maximum(deviation, 1e-9), model)


@dataclass(frozen=True)
class Proposal:
    """The next point, with what its trial records from the start; ``n_seeds`` limits its seeds to the first ones."""

    point: Point
    attributes: Mapping[str, Any] = field(default_factory=dict)


def next_visit(
    trials: Sequence[FrozenTrial],
    space: Space,
    costs: Callable[[Floats], Floats],
    config: SearchConfig,
    *,
    most: int,
) -> Proposal | None:
    """The next point with the attributes of its trial, `n_seeds` and the share `certain` of the map; None if that is
    enough.

    Args:
        costs: From points of the map [points, axes] to the relative cost of a seed there.
        most: Largest number of seeds of a point.
    """
    known = measured(trials, space)
    visited: dict[tuple[Any, ...], int] = {}
    for trial in trials:  # no further seeds where some are under way, or where a trial failed
        is_done = trial.state == TrialState.COMPLETE
        visited[tuple(trial.params.values())] = trial.user_attrs.get("n_seeds", most) if is_done else most
    if len(trials) < N_FIRST or len(known) < 3:
        return Proposal(_first(len(trials), space, config.seed), {"n_seeds": min(config.step, most), "certain": 0.0})
    here = map_of(known, len(space))
    if here.certain >= config.certain and not any(trial.state == TrialState.RUNNING for trial in trials):
        return None
    here = _with_pending(here, trials, space)
    order = np.argsort(-here.wrong, kind="stable")[:N_CANDIDATES]
    candidates = np.unique(np.vstack([here.where[order], *(point.where[None] for point in known)]), axis=0)
    gain = (here.wrong.mean() - here.expected_wrong(candidates, config.step)) / costs(candidates)
    for index in np.argsort(-gain, kind="stable"):
        point = _point(candidates[index], space)
        n = visited.get(tuple(point.values()), 0)
        if n < most:
            return Proposal(point, {"n_seeds": min(most, n + config.step), "certain": here.certain})
    return None


def _with_pending(here: Map, trials: Sequence[FrozenTrial], space: Space) -> Map:
    """The map as if running trials found what is expected (the kriging believer of Ginsbourger et al. 2010)."""
    pending = [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    if not pending:
        return here
    from sklearn.base import clone

    where = np.array([_unit(trial.params, space) for trial in pending])
    believed = here.model.predict(where)
    model = clone(here.model).set_params(
        kernel=here.model.kernel_,
        optimizer=None,
        alpha=np.concatenate([here.model.alpha, [1 / trial.user_attrs["n_seeds"] for trial in pending]]),
    )
    model.fit(np.vstack([here.model.X_train_, where]), np.concatenate([here.model.y_train_, believed]))
    mean, deviation = model.predict(here.where, return_std=True)
    return Map(here.where, mean, np.maximum(deviation, 1e-9), model)


def _first(number: int, space: Space, seed: int) -> dict[str, Any]:
    """A point of a scrambled Sobol' sequence, moved to the map."""
    from scipy.stats import qmc

    sobol = qmc.Sobol(len(space), rng=seed).random(1 << number.bit_length())[number]
    levels = LEVELS[len(space)] - 1
    return _point(np.round(sobol * levels) / levels, space)


@dataclass(frozen=True)
class Scale:
    """An axis: its ends, which are logarithms if it is logarithmic."""

    low: float
    high: float
    is_log: bool

    @classmethod
    def of(cls, distribution: BaseDistribution) -> Scale:
        low, high, is_log = (getattr(distribution, name) for name in ("low", "high", "log"))
        return cls(np.log(low), np.log(high), True) if is_log else cls(low, high, False)

    def value(self, share: float) -> float:
        """The value at a share of the axis, from 0 to 1."""
        value = self.low + share * (self.high - self.low)
        return float(np.exp(value)) if self.is_log else float(value)

    def share(self, value: float) -> float:
        """The place of a value on the axis, from 0 to 1."""
        return float(((np.log(value) if self.is_log else value) - self.low) / (self.high - self.low))


def _point(where: Floats, space: Space) -> dict[str, Any]:
    """The settings at a point of the unit cube."""
    values: dict[str, Any] = {}
    for share, (key, distribution) in zip(where, space.items(), strict=True):
        value = Scale.of(distribution).value(float(share))
        value = min(max(value, distribution.low), distribution.high)  # type: ignore[attr-defined]
        step = getattr(distribution, "step", None)
        if step:
            value = distribution.low + round((value - distribution.low) / step) * step  # type: ignore[attr-defined]
        values[key] = distribution.to_external_repr(value)
    return rounded(values, space)


def _unit(point: Point, space: Space) -> Floats:
    """The place of a point in the unit cube."""
    return np.array([Scale.of(distribution).share(point[key]) for key, distribution in space.items()])
