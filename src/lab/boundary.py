"""The phase boundary: over the size of Dataset 2 and the shift of its target, who wins on Dataset 2, measured and exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.lab.cell import Floats, lab, measure
from src.theory import boundary

DIM, N1, NOISE = 20, 400, 1.0
SIZES = (1, 2, 4, 7, 10, 13, 16, 24, 30, 42, 60, 100)
SHIFTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""D2 = |w1* - w2*|^2. Sizes keep 4 away from d, where the variance of a risk is infinite."""
SEEDS = tuple(range(500_000, 500_064))
CERTAIN = 3.0
"""Standard errors from which on a measured sign counts."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One cell: the measured difference sequential - combined on Dataset 2, its standard error, and the exact one."""

    n2: int
    shift: float
    difference: float
    error: float
    exact: float

    @property
    def z(self) -> float:
        """Of the difference from 0."""
        return self.difference / self.error

    @property
    def is_certain(self) -> bool:
        """Whether the measured sign counts."""
        return abs(self.z) > CERTAIN

    @property
    def agrees(self) -> bool:
        """The measured sign is the exact one, or not certain."""
        return not self.is_certain or (self.difference > 0) == (self.exact > 0)


def points() -> Iterator[Point]:
    """Every cell of the picture, measured: the runs of `study=linear_lab` at these sizes and shifts."""
    for n2 in SIZES:
        for shift in SHIFTS:
            overrides = (
                f"data.dim={DIM}",
                f"data.noise={NOISE}",
                f"data.target_shift={shift**0.5!r}",
                f"data.n_samples={int(1.2 * (N1 + n2))}",
                f"split.sizes=[{N1},{n2}]",
                "split.test=0.05",
            )
            config = lab(*overrides, regimes="sequential,combined", seeds=SEEDS)
            cell = measure(config, accuracy=1e-4)
            assert not cell.unconverged, (n2, shift)
            sequential, combined = (cell.metric(r, "test/d2/excess_risk") for r in ("sequential", "combined"))
            gap = sequential - combined
            yield Point(
                n2=n2,
                shift=shift,
                difference=float(gap.mean()),
                error=float(gap.std(ddof=1) / len(gap) ** 0.5),
                exact=boundary.risk_difference(DIM, N1, n2, noise=NOISE**2, initial=1.0, shift=shift),
            )


def draw(found: list[Point], path: Path) -> None:
    """Cells coloured by who wins and how certainly, the exact boundary as a line; PNG at `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    table = {(point.n2, point.shift): point for point in found}
    z = np.array([[table[n2, shift].z for n2 in SIZES] for shift in SHIFTS])
    edges = _edges(np.array(SIZES, np.float64)), _edges(np.array(SHIFTS))
    mesh = axes.pcolormesh(
        *edges, np.clip(z, -10, 10), cmap="RdBu", norm=TwoSlopeNorm(0, -10, 10), edgecolors="white", linewidth=0.6
    )
    for point in found:
        if not point.is_certain:
            axes.plot(point.n2, point.shift, marker="x", color="0.35", markersize=6, linestyle="none")
    below, above = np.arange(1, DIM - 1), np.arange(DIM + 2, 131)
    for sizes in (below, above):
        critical = [boundary.critical_shift(DIM, N1, int(n), noise=NOISE**2, initial=1.0) for n in sizes]
        axes.plot(sizes, critical, color="black", linewidth=2, label="exact boundary" if sizes is below else None)
    axes.axvline(DIM, color="black", linewidth=0.8, linestyle=":", label=f"n2 = d = {DIM}")
    axes.plot(
        [], [], marker="x", color="0.35", linestyle="none", label=f"sign not certain ({CERTAIN:g} standard errors)"
    )
    axes.set(xscale="log", yscale="log", xlabel="samples of Dataset 2, n2", ylabel="shift of the target, |w1* - w2*|²")
    axes.set(xlim=(edges[0][0], edges[0][-1]), ylim=(edges[1][0], edges[1][-1]))
    axes.set_xticks(SIZES, [str(n) for n in SIZES])
    axes.set_yticks(SHIFTS, [f"{shift:g}" for shift in SHIFTS])
    axes.minorticks_off()
    axes.set_title(
        f"Who wins on Dataset 2 in linear regression: d = {DIM}, n1 = {N1}, noise {NOISE:g}, {len(SEEDS)} seeds a cell",
        fontsize=10,
    )
    bar = figure.colorbar(mesh, ax=axes, extend="both", ticks=[-10, -3, 0, 3, 10])
    bar.set_label("risk of sequential - combined, in standard errors\nred: sequential wins      blue: combined wins")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))  # type: ignore[no-untyped-call]


def _edges(centres: Floats) -> Floats:
    """Borders of cells around the centres, half-way between them on a logarithmic axis."""
    logs = np.log(centres)
    middles = (logs[1:] + logs[:-1]) / 2
    ends = (2 * logs[0] - middles[0], 2 * logs[-1] - middles[-1])
    return np.asarray(np.exp([ends[0], *middles, ends[1]]))
