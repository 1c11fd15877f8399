"""Where a formula holds: checks that raise ValueError naming the argument, so that no closed form is read outside
it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def require(condition: bool, name: str, value: object, problem: str) -> None:
    """Raise ValueError "name=value: problem" unless `condition` holds."""
    if not condition:
        raise ValueError(f"{name}={value!r}: {problem}")


def require_counts(least: int = 0, /, **values: int) -> None:
    """Whole numbers of at least `least` (samples, dimensions, steps), by the names of their arguments."""
    for name, value in values.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        require(whole and value >= least, name, value, f"must be a whole number of at least {least}")


def require_nonnegative(**values: float) -> None:
    """Finite numbers that are not negative (variances, squared norms, times), by the names of their arguments."""
    for name, value in values.items():
        require(math.isfinite(value) and value >= 0, name, value, "must be finite and not negative")


def vector(name: str, value: npt.ArrayLike, size: int | None = None) -> Array:
    """`value` as a float64 vector of finite numbers, of length `size` where given."""
    array = np.asarray(value, dtype=np.float64)
    require(array.ndim == 1, name, array.shape, "must be a vector")
    require(size is None or array.size == size, name, array.shape, f"must have {size} entries")
    require(bool(np.isfinite(array).all()), name, "...", "has entries that are not finite")
    return array


def symmetric(name: str, value: npt.ArrayLike, size: int) -> Array:
    """`value` as a float64 symmetric positive semidefinite matrix (size, size): a Hessian of a convex quadratic."""
    array = np.asarray(value, dtype=np.float64)
    require(array.shape == (size, size), name, array.shape, f"must have shape ({size}, {size})")
    require(bool(np.isfinite(array).all()), name, "...", "has entries that are not finite")
    scale = float(np.abs(array).max(initial=0.0))
    require(bool(np.abs(array - array.T).max(initial=0.0) <= 1e-12 * scale), name, "...", "must be symmetric")
    least = float(np.linalg.eigvalsh(array).min(initial=0.0))
    require(least >= -1e-10 * scale, name, "...", f"must be positive semidefinite; least eigenvalue {least:.3g}")
    return array
