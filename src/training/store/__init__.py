"""The stage store: results and resume points of stages, shared by all sweeps, workers and hosts of one `multirun/`."""

from src.training.store.locks import StageLocks
from src.training.store.store import StageCache, Store, weights_digest

__all__ = ["StageCache", "StageLocks", "Store", "weights_digest"]
