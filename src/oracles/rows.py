"""One line of the table of oracles: what theory says, what the laboratory measured, and whether they agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

TOLERANCE = 1e-6
"""Relative error up to which an exact row agrees."""
MAX_Z = 4.0
"""Standard errors up to which a Monte-Carlo row agrees."""
CHI_SQUARE_LEVEL = 1e-4
"""All Monte-Carlo rows together may be so improbable, on either side: too far from theory, or too close to it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """`error`: the standard error of `measured` (None: an exact row). `score`: its z, or the relative error."""

    name: str
    setting: str
    theory: str
    measured: str
    score: float
    passed: bool
    kind: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as texts, in the order of `HEADINGS`."""
        score = f"z {self.score:+.2f}" if self.kind == "Monte Carlo" else f"{self.score:.1e}"
        shown = "-" if math.isnan(self.score) else score
        return (self.name, self.setting, self.theory, self.measured, shown, "pass" if self.passed else "FAIL")


HEADINGS = ("what", "setting", "theory", "measured", "z or relative error", "")


def exact(name: str, setting: str, theory: npt.ArrayLike, measured: npt.ArrayLike, tolerance: float = TOLERANCE) -> Row:
    """The largest deviation of any number from theory, over the largest number of theory; shown are the two norms' means.

    Arrays of equal shape [seeds, ...]. Figures that are not finite fail.
    """
    expected, found = np.asarray(theory, np.float64), np.asarray(measured, np.float64)
    assert expected.shape == found.shape, (name, expected.shape, found.shape)
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    return Row(
        name=name,
        setting=setting,
        theory=_shown(expected),
        measured=_shown(found),
        score=error,
        passed=math.isfinite(error) and error <= tolerance,
        kind="exact",
    )


def apart(
    name: str,
    setting: str,
    theory: npt.ArrayLike,
    measured: npt.ArrayLike,
    *,
    least: float,
    tolerance: float = TOLERANCE,
) -> Row:
    """Two things must differ: a gap as theory has it, [seeds] or [seeds, d], and of no seed shorter than `least`."""
    row = exact(name, setting, theory, measured, tolerance)
    gaps = np.asarray(measured, np.float64)
    lengths = np.abs(gaps) if gaps.ndim == 1 else np.linalg.norm(gaps, axis=-1)
    return replace(row, passed=row.passed and float(lengths.min()) >= least)


def never_rises(name: str, setting: str, values: npt.ArrayLike) -> Row:
    """Each seed's values [seeds, steps] do not rise from step to step; the score is the largest rise, over the largest value."""
    found = np.asarray(values, np.float64)
    rise = float(max(np.diff(found, axis=1).max() / np.abs(found).max(), 0.0))
    shown = f"{found[:, 0].mean():.4g} to {found[:, -1].mean():.4g}"
    return Row(
        name=name,
        setting=setting,
        theory="does not rise",
        measured=shown,
        score=rise,
        passed=bool(np.isfinite(found).all()) and rise <= 1e-9,
        kind="exact",
    )


def _shown(values: npt.NDArray[np.float64]) -> str:
    """A number, or the mean length of vectors."""
    if values.ndim < 2:
        return f"{values.mean():.6g}"
    return f"|w| {np.linalg.norm(values, axis=-1).mean():.6g}"


def monte_carlo(name: str, setting: str, theory: float, values: npt.ArrayLike) -> Row:
    """The mean of independent `values` [seeds] against its expectation."""
    drawn = np.asarray(values, np.float64)
    mean, error = float(drawn.mean()), float(drawn.std(ddof=1) / math.sqrt(len(drawn)))
    z = (mean - theory) / error
    shown = f"{mean:.4g} ± {error:.2g}"
    return Row(
        name=name,
        setting=setting,
        theory=f"{theory:.4g}",
        measured=shown,
        score=z,
        passed=abs(z) < MAX_Z,
        kind="Monte Carlo",
    )


def joint_deviation(theory: npt.ArrayLike, values: npt.ArrayLike) -> tuple[float, int]:
    """How far several means of the same seeds are from theory together, as (chi-square, degrees of freedom).

    `theory` [k], `values` [seeds, k]: rows of one cell share their data, so their z do not add up; Hotelling's T^2 allows
    for their correlation. Its F distribution is mapped to the chi-square of the same tail probability.
    """
    from scipy.stats import chi2, f

    drawn = np.asarray(values, np.float64)
    n, k = drawn.shape
    gap = drawn.mean(axis=0) - np.asarray(theory, np.float64)
    scale = drawn.std(axis=0, ddof=1)
    correlation = np.corrcoef(drawn, rowvar=False).reshape(k, k)
    squared = n * float((gap / scale) @ np.linalg.pinv(correlation, hermitian=True) @ (gap / scale))
    tail = f.sf(squared * (n - k) / (k * (n - 1)), k, n - k)
    return float(chi2.isf(tail, k)), k


def chi_square(deviations: Sequence[tuple[float, int]]) -> Row:
    """One test over all Monte-Carlo rows: the sum of the cells' chi-squares, cells being independent."""
    from scipy.stats import chi2

    total, freedom = sum(value for value, _ in deviations), sum(k for _, k in deviations)
    below, above = float(chi2.cdf(total, freedom)), float(chi2.sf(total, freedom))
    return Row(
        name="all Monte-Carlo rows together",
        setting=f"chi-square, {freedom} degrees of freedom",
        theory=f"{freedom} ± {math.sqrt(2 * freedom):.1f}",
        measured=f"{total:.1f}, p = {above:.3f}",
        score=(total - freedom) / math.sqrt(2 * freedom),
        passed=min(below, above) > CHI_SQUARE_LEVEL,
        kind="Monte Carlo",
    )
