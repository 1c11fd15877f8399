"""The phase diagram of linear regression: who wins on Dataset 2, over its size and the shift of its target.

Theory (`critical_shift`) gives the boundary as a line; measured cells surround it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from src.comparison.statistics import Floats
from src.oracles.theory.risks import critical_shift, risk_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CERTAIN = 3.0
"""Standard errors above which a measured sign is certain."""
METRIC = "test/d2/excess_risk"


@dataclass(frozen=True, kw_only=True)
class PhaseSetting:
    """What all cells of a diagram share: dimension, size of Dataset 1, standard deviation of the noise."""

    dim: int
    n1: int
    noise: float

    def difference(self, n2: int, shift: float) -> float:
        """The exact risk of sequential minus combined on Dataset 2; NaN where a risk is infinite."""
        return self._exact(risk_difference, n2, shift=shift)

    def critical(self, n2: int) -> float:
        """The shift above which sequential wins; NaN where a risk is infinite."""
        return self._exact(critical_shift, n2)

    def _exact(self, formula: Callable[..., float], n2: int, **more: float) -> float:
        try:
            return formula(self.dim, self.n1, n2, noise=self.noise**2, initial=1.0, **more)
        except ValueError:  # outside the range of validity
            return np.nan


@dataclass(frozen=True, kw_only=True)
class PhasePoint:
    """One cell: the measured difference sequential - combined on Dataset 2, its standard error, and the exact one.

    `shift`: |w1* - w2*|^2.
    """

    n2: int
    shift: float
    difference: float
    error: float
    exact: float

    @property
    def z(self) -> float:
        """z-score of the difference."""
        return self.difference / self.error

    @property
    def is_certain(self) -> bool:
        """Whether the measured sign is certain and an exact one exists."""
        return abs(self.z) > CERTAIN and np.isfinite(self.exact)

    @property
    def agrees(self) -> bool:
        """Whether the measured sign is the exact one, or not certain."""
        return not self.is_certain or (self.difference > 0) == (self.exact > 0)


def verdict(points: Sequence[PhasePoint]) -> str:
    """The number of certain cells and of those with the wrong sign, as a sentence."""
    certain, wrong = sum(p.is_certain for p in points), sum(not p.agrees for p in points)
    against = "all of them with the exact sign" if not wrong else f"{wrong} of them against the exact sign"
    return f"{len(points)} cells, {certain} certain ({CERTAIN:g} standard errors), {against}"


def point_of(setting: PhaseSetting, n2: int, shift: float, gaps: Floats) -> PhasePoint:
    """A cell from the differences sequential - combined of its seeds."""
    error = float(gaps.std(ddof=1) / len(gaps) ** 0.5)
    exact = setting.difference(n2, shift)
    return PhasePoint(n2=n2, shift=shift, difference=float(gaps.mean()), error=error, exact=exact)


def draw(setting: PhaseSetting, points: Sequence[PhasePoint]) -> Figure:
    """Draws cells coloured by winner and z-score, and the exact boundary as a line."""
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    table = {(point.n2, point.shift): point.z for point in points}
    sizes, shifts = sorted({p.n2 for p in points}), sorted({p.shift for p in points})
    z = np.array([[table.get((n2, shift), np.nan) for n2 in sizes] for shift in shifts])
    edges = _edges(np.array(sizes, np.float64)), _edges(np.array(shifts))
    mesh = axes.pcolormesh(
        *edges, np.clip(z, -10, 10), cmap="RdBu", norm=TwoSlopeNorm(0, -10, 10), edgecolors="white", linewidth=0.6
    )
    cross: dict[str, Any] = {"marker": "x", "color": "0.35", "markersize": 6, "linestyle": "none"}
    for point in points:
        if not point.is_certain:
            axes.plot(point.n2, point.shift, **cross)
    line = np.arange(1, int(1.3 * sizes[-1]) + 1)
    critical = [setting.critical(int(n2)) for n2 in line]
    axes.plot(line, critical, color="black", linewidth=2, label="exact boundary")
    axes.axvline(setting.dim, color="black", linewidth=0.8, linestyle=":", label=f"n2 = d = {setting.dim}")
    axes.plot([], [], label=f"sign not certain ({CERTAIN:g} standard errors)", **cross)
    axes.set(xscale="log", yscale="log", xlabel="samples of Dataset 2, n2", ylabel="shift of the target, |w1* - w2*|²")
    axes.set(xlim=(edges[0][0], edges[0][-1]), ylim=(edges[1][0], edges[1][-1]))
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.set_yticks(shifts, [f"{shift:g}" for shift in shifts])
    axes.minorticks_off()
    about = f"d = {setting.dim}, n1 = {setting.n1}, noise {setting.noise:g}"
    axes.set_title(f"Who wins on Dataset 2 in linear regression: {about}", fontsize=10)
    bar = figure.colorbar(mesh, ax=axes, extend="both", ticks=[-10, -3, 0, 3, 10])
    bar.set_label("risk of sequential - combined, in standard errors\nred: sequential wins      blue: combined wins")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _edges(centres: Floats) -> Floats:
    """Edges of cells around the centres, at the midpoints of a logarithmic axis."""
    logs = np.log(centres)
    middles = (logs[1:] + logs[:-1]) / 2
    ends = (2 * logs[0] - middles[0], 2 * logs[-1] - middles[-1])
    return np.asarray(np.exp([ends[0], *middles, ends[1]]))
