"""The phase diagram, measured by the linear lab."""

from __future__ import annotations

from collections.abc import Iterator

from src.oracles.cell import lab, measure
from src.oracles.phase_diagram import METRIC, PhasePoint, PhaseSetting, point_of

SETTING = PhaseSetting(dim=20, n1=400, noise=1.0)
SIZES = (1, 2, 4, 7, 10, 13, 16, 24, 30, 42, 60, 100)
SHIFTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""D2 = |w1* - w2*|^2. Sizes stay 4 away from d, where the variance of a risk is infinite."""
SEEDS = tuple(range(500_000, 500_064))


def points() -> Iterator[PhasePoint]:
    """Measures every cell of the diagram: runs of `study=linear_lab` at these sizes and shifts."""
    for n2 in SIZES:
        for shift in SHIFTS:
            overrides = (
                f"data.dim={SETTING.dim}",
                f"data.noise={SETTING.noise}",
                f"data.target_shift={shift**0.5!r}",
                f"data.n_samples={int(1.2 * (SETTING.n1 + n2))}",
                f"split.sizes=[{SETTING.n1},{n2}]",
                "split.test=0.05",
            )
            config = lab(*overrides, regimes="sequential,combined", seeds=SEEDS)
            cell = measure(config, accuracy=1e-4)
            assert not cell.unconverged, (n2, shift)
            sequential, combined = (cell.metric(regime, METRIC) for regime in ("sequential", "combined"))
            yield point_of(SETTING, n2, shift, sequential - combined)
