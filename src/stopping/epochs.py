"""`stopping=epochs`: a fixed number of passes."""

from __future__ import annotations

from dataclasses import dataclass, field

from src.stopping.rule import StoppingRule
from src.typed import bounds


@dataclass(frozen=True, kw_only=True)
class EpochsStopping(StoppingRule):
    """Every stage makes `epochs` passes over its own data."""

    epochs: int = field(metadata=bounds(ge=1))
    """Passes of every stage."""

    @property
    def amount(self) -> int:
        return self.epochs
