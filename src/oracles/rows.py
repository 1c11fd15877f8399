"""A row of the table of oracles: theory, measurement, whether they agree; and which rows check which statement."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from src.comparison.statistics import Floats

TOLERANCE = 1e-6
"""Largest relative error of an exact row that passes."""
MAX_Z = 4.0
"""Largest |z| of a Monte Carlo row that passes."""
CHI_SQUARE_LEVEL = 1e-4
"""Smallest tail probability, on either side, of the joint test of all Monte Carlo rows."""


@dataclass(frozen=True)
class Row:
    """A check. `score`: z of a Monte Carlo row, p-value of a verdict, relative error of an exact row."""

    name: str
    setting: str
    theory: str
    measured: str
    score: float
    passed: bool
    kind: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of the row in the order of `HEADINGS`."""
        score = f"z {self.score:+.2f}" if self.kind == "Monte Carlo" else f"{self.score:.1e}"
        shown = "-" if math.isnan(self.score) else score
        return (self.name, self.setting, self.theory, self.measured, shown, "pass" if self.passed else "FAIL")


HEADINGS = ("what", "setting", "theory", "measured", "z or relative error", "")


def exact(name: str, setting: str, theory: npt.ArrayLike, measured: npt.ArrayLike, tolerance: float = TOLERANCE) -> Row:
    """Checks that arrays [seeds, ...] agree: the score is the largest deviation over the largest theoretical value.

    Values that are not finite fail.
    """
    expected, found = np.asarray(theory, np.float64), np.asarray(measured, np.float64)
    assert expected.shape == found.shape, (name, expected.shape, found.shape)
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    passed = math.isfinite(error) and error <= tolerance
    return Row(name, setting, _text(expected), _text(found), error, passed, "exact")


def apart(
    name: str,
    setting: str,
    theory: npt.ArrayLike,
    measured: npt.ArrayLike,
    *,
    least: float,
    tolerance: float = TOLERANCE,
) -> Row:
    """Checks that a gap [seeds] or [seeds, d] agrees with theory and is at least `least` long for every seed."""
    row = exact(name, setting, theory, measured, tolerance)
    gaps = np.asarray(measured, np.float64)
    lengths = np.abs(gaps) if gaps.ndim == 1 else np.linalg.norm(gaps, axis=-1)
    return replace(row, passed=row.passed and float(lengths.min()) >= least)


def never_rises(name: str, setting: str, values: npt.ArrayLike) -> Row:
    """Checks that no seed's values [seeds, steps] rise: the score is the largest rise over the largest value."""
    found = np.asarray(values, np.float64)
    rise = float(max(np.diff(found, axis=1).max() / np.abs(found).max(), 0.0))
    range_text = f"{found[:, 0].mean():.4g} to {found[:, -1].mean():.4g}"
    passed = bool(np.isfinite(found).all()) and rise <= 1e-9
    return Row(name, setting, "does not rise", range_text, rise, passed, "exact")


def _text(values: Floats) -> str:
    """The mean of numbers, or the mean length of vectors."""
    return f"{values.mean():.6g}" if values.ndim < 2 else f"|w| {np.linalg.norm(values, axis=-1).mean():.6g}"


def monte_carlo(name: str, setting: str, theory: float, values: npt.ArrayLike) -> Row:
    """Checks the mean of independent `values` [seeds] against its expectation."""
    drawn = np.asarray(values, np.float64)
    mean, error = float(drawn.mean()), float(drawn.std(ddof=1) / math.sqrt(len(drawn)))
    z = (mean - theory) / error
    return Row(name, setting, f"{theory:.4g}", f"{mean:.4g} ± {error:.2g}", z, abs(z) < MAX_Z, "Monte Carlo")


def joint_deviation(theory: npt.ArrayLike, values: npt.ArrayLike) -> tuple[float, int]:
    """Joint deviation of k means over the same seeds from theory, as (chi-square, degrees of freedom).

    `theory` [k], `values` [seeds, k]. Rows of one cell share their data, so Hotelling's T^2 accounts for their
    correlation; its F distribution is mapped to the chi-square of the same tail probability.
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
    """Tests all Monte Carlo rows together: sums the chi-squares of the independent cells."""
    from scipy.stats import chi2

    total, freedom = sum(value for value, _ in deviations), sum(k for _, k in deviations)
    below, above = float(chi2.cdf(total, freedom)), float(chi2.sf(total, freedom))
    return Row(
        "all Monte-Carlo rows together",
        f"chi-square, {freedom} degrees of freedom",
        f"{freedom} ± {math.sqrt(2 * freedom):.1f}",
        f"{total:.1f}, p = {above:.3f}",
        (total - freedom) / math.sqrt(2 * freedom),
        min(below, above) > CHI_SQUARE_LEVEL,
        "Monte Carlo",
    )


@functools.cache
def statements() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(statement, prefixes of the names of its rows)."""
    content = yaml.safe_load((Path(__file__).parent / "statements.yaml").read_text(encoding="utf-8"))
    return tuple((entry["statement"], tuple(entry["rows"])) for entry in content)


def uncovered(rows: Sequence[Row]) -> list[str]:
    """Prefixes that match no row."""
    prefixes = [prefix for _, names in statements() for prefix in names]
    return [prefix for prefix in prefixes if not any(row.name.startswith(prefix) for row in rows)]


def coverage_table(rows: Sequence[Row]) -> str:
    """A Markdown table of every statement with its number of rows and of passing rows."""
    assert not (missing := uncovered(rows)), missing
    lines = ["| theory | rows | pass |", "|---|---:|---:|"]
    for statement, names in statements():
        own = [row for row in rows if row.name.startswith(names)]
        lines.append(f"| {statement.replace('|', chr(92) + '|')} | {len(own)} | {sum(row.passed for row in own)} |")
    return "\n".join(lines) + "\n"
