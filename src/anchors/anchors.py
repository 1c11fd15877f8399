"""An anchor as a file: a published protocol, its rows, and the study that follows it here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from src.comparison.statistics import Floats
from src.errors import ConfigError
from src.typed import bounds, build, read_conf

Verdict = Literal["equivalent", "consistent", "too few seeds", "differs"]
NORMAL_97_5 = 1.96


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorRow:
    """A published value, in percent or points, and the metric of ours that it is compared with."""

    name: str
    of: Any
    """The regime."""
    minus: Any = None
    """A regime whose metric is subtracted, seed by seed."""
    metric: str
    """See `src.comparison.metrics.run_metric`; fractions, shown times 100."""
    value: float
    spread: float | None = field(default=None, metadata=bounds(ge=0))
    kind: Literal["SD", "SE", "SEM"] | None = None
    """What the spread is: over runs (SD), or of their mean (SE, SEM)."""
    n: int | None = field(default=None, metadata=bounds(ge=1))
    """Runs behind the value."""
    margin: float = field(metadata=bounds(gt=0))
    """Differences up to this count as none."""
    miss: str = ""
    """Why ours differs: a measured deviation."""

    @property
    def error(self) -> float:
        """Standard error of the published value; 0 where none was published."""
        if self.spread is None:
            return 0.0
        return self.spread / math.sqrt(self.n or 1) if self.kind == "SD" else self.spread

    @property
    def published(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:g} ({self.kind})"
        return f"{self.value:g}{spread}" + ("" if self.n is None else f", n = {self.n}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """One published protocol."""

    id: str
    source: str
    protocol: str
    overrides: tuple[str, ...]
    """The study, as arguments of a sweep: one cell."""
    regimes: Any
    seeds: int = field(metadata=bounds(ge=2))
    minutes: float = field(metadata=bounds(gt=0))
    """Of processor time that the study takes on the machine that measured it, or is estimated to take."""
    on_demand: str = ""
    """Why it runs only if named: what it needs."""
    deviations: tuple[str, ...]
    rows: tuple[AnchorRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorComparison:
    """A published value and ours."""

    mean: float
    deviation: float
    """Standard deviation over our seeds."""
    n: int
    difference: float
    z: float
    """The difference over its standard error."""
    verdict: Verdict


def load_anchor(name: str) -> Anchor:
    """The anchor of conf/anchor/NAME.yaml. Raises ConfigError naming key, value and fix."""
    anchor = build(Anchor, read_conf("anchor", name), f"anchor.{name}")
    for row in anchor.rows:
        if (row.spread is None) != (row.kind is None) or (row.kind == "SD" and row.n is None):
            problem = "needs its kind (SD, SE or SEM), and an SD its n; give both or neither"
            raise ConfigError(f"anchor.{name}.rows.{row.name}.spread", row.spread, problem)
    return anchor


def compare(row: AnchorRow, ours: Sequence[float]) -> AnchorComparison:
    """Our values, in the unit of the row, with the published one.

    ``equivalent``: shown to be within the margin at 5 % (two one-sided t tests, Welch's degrees of freedom);
    ``differs``: shown to differ at 5 %; ``too few seeds``: not shown, though the difference is above 1.96 standard
    errors, which would show it with many seeds; else ``consistent``.
    """
    values: Floats = np.array(ours, np.float64)
    n, own = len(values), float(values.std(ddof=1)) / math.sqrt(len(values))
    error = max(math.hypot(own, row.error), 1e-9)
    freedom = error**4 / max(own**4 / (n - 1) + row.error**4 / max((row.n or n) - 1, 1), 1e-40)
    difference = float(values.mean()) - row.value
    z = difference / error
    verdict: Verdict = "differs"
    if abs(difference) + float(stdtrit(freedom, 0.95)) * error <= row.margin:
        verdict = "equivalent"
    elif abs(z) < float(stdtrit(freedom, 0.975)):
        verdict = "consistent" if abs(z) < NORMAL_97_5 else "too few seeds"
    deviation = float(values.std(ddof=1))
    return AnchorComparison(
        mean=float(values.mean()), deviation=deviation, n=n, difference=difference, z=z, verdict=verdict
    )
