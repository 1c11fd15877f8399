"""Penalties: terms added to a stage's loss that hold it near the end of an earlier stage. One file each."""

from src.training.penalties.catalog import PENALTIES, extra_passes, make_penalty
from src.training.penalties.kind import PenaltyContext

__all__ = ["PENALTIES", "PenaltyContext", "extra_passes", "make_penalty"]
