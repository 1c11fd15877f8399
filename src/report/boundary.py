"""The phase diagram of a sweep over the linear lab, if its cells make one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from src.comparison.pairing import RunRecord, by_cell, pair
from src.config import Config
from src.oracles.phase_diagram import METRIC, PhasePoint, PhaseSetting, draw, point_of, verdict
from src.report.plots import Plot, save_plot


def boundary_plot(configs: Mapping[str, Config], runs: Sequence[RunRecord], folder: Path) -> Plot | None:
    """The phase diagram of a sweep over the size of Dataset 2 and the shift of its target in the linear lab.

    None if the sweep is a different one, or has fewer than two sizes or shifts.
    """
    settings: set[PhaseSetting] = set()
    points: list[PhasePoint] = []
    for cell, some in by_cell(runs).items():
        if cell not in configs or (coordinates := _coordinates(configs[cell])) is None:
            continue
        setting, n2, shift = coordinates
        pairs = pair(some, "sequential", "combined", METRIC)
        if pairs.problem is None and len(pairs.seeds) >= 3 and shift > 0:
            settings.add(setting)
            points.append(point_of(setting, n2, shift, np.array(pairs.differences)))
    if len(settings) != 1 or len({p.n2 for p in points}) < 2 or len({p.shift for p in points}) < 2:
        return None
    summary = verdict(points)
    alt = f"Who wins on Dataset 2 over its size and the shift of its target, the exact boundary as a line: {summary}."
    return save_plot(draw(next(iter(settings)), points), folder, "boundary", alt, caption=f"{summary}.", vector=False)


def _coordinates(config: Config) -> tuple[PhaseSetting, int, float] | None:
    """A cell's coordinates in the phase diagram, if theory covers its kind."""
    data, sizes = config.data.shifted_target, config.split.dataset_sizes()
    if data is None or not config.arch.is_zero_linear or len(sizes) != 2 or not all(sizes):
        return None
    return PhaseSetting(dim=data.dim, n1=sizes[0], noise=data.noise), sizes[1], round(data.distance**2, 9)
