"""The probes: values of a cell that need its trained weights and data, by seed.

A statement requests ``agreement/disagreement`` like any other metric; the part before the slash is a name of `PROBES`.
docs/CLAIMS.md lists the metrics with their purpose.
"""

from __future__ import annotations

from collections.abc import Callable

from src.claims.cell import CellRuns, ProbeResult
from src.claims.probes.last_stage import gap, path
from src.claims.probes.prior import prior
from src.claims.probes.seeds import agreement, between, variation
from src.claims.probes.surface import curvature, noise, overwriting

PROBES: dict[str, Callable[[CellRuns], ProbeResult]] = {
    "agreement": agreement,
    "between": between,
    "curvature": curvature,
    "gap": gap,
    "noise": noise,
    "overwriting": overwriting,
    "path": path,
    "prior": prior,
    "variation": variation,
}
