"""`seeds=auto`: how many seeds a cell gets is decided while the sweep runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from src.errors import ConfigError
from src.typed import bounds, build

AUTO = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeding:
    """Limits of `seeds=auto`."""

    max: int = field(default=48, metadata=bounds(ge=6))
    """Most seeds of a cell; they are 0, 1, ..."""
    margin: float | None = field(default=None, metadata=bounds(gt=0))
    """A difference within it counts as none, in the metric's own unit (accuracy: 0.01 is a point); None: never."""
    runs: int | None = field(default=None, metadata=bounds(ge=1))
    """Most runs of the command, earlier ones included; None: no limit."""


def parse_seeding(given: Mapping[str, Any]) -> Seeding | None:
    """The limits of a mapping with `seeds=auto`; otherwise None. Raises ConfigError for limits without it."""
    seeding: Seeding = build(Seeding, given.get("seeding") or asdict(Seeding()), "seeding")
    if given["seeds"] == AUTO:
        return seeding
    for key, value in asdict(seeding).items():
        if value != getattr(Seeding(), key):
            raise ConfigError(f"seeding.{key}", value, "has no effect without seeds=auto")
    return None
