"""The configuration of a cell: composed by Hydra, parsed into typed and frozen dataclasses, validated once."""

from src.config.parse import compose, parse, parse_seeds
from src.config.regimes import parse_regime, with_knobs
from src.config.schema import (
    SCHEMA_VERSION,
    Config,
    RayLauncher,
    SlurmLauncher,
    TrackingConfig,
    TrainerConfig,
    cell_hash,
    run_hash,
)
from src.config.search import Objective, SearchConfig, is_search, parse_objective

__all__ = [
    "SCHEMA_VERSION",
    "Config",
    "Objective",
    "RayLauncher",
    "SearchConfig",
    "SlurmLauncher",
    "TrackingConfig",
    "TrainerConfig",
    "cell_hash",
    "compose",
    "is_search",
    "parse",
    "parse_objective",
    "parse_regime",
    "parse_seeds",
    "run_hash",
    "with_knobs",
]
