"""Whether regimes can be run on a network and its data, said before anything is trained."""

from __future__ import annotations

import functools

from src.config import Config
from src.data.source import Source
from src.errors import ConfigError
from src.models.architecture import Architecture
from src.models.build import build_meta_model
from src.regimes.catalog import REGIMES
from src.regimes.checkpoint import read
from src.regimes.config import RegimeConfig
from src.training.replicas import trainable_names

FULL_UP_TO = 2048
"""Parameters of which the whole Fisher matrix is taken: 32 MiB of it in double precision."""


def check_regimes(config: Config, source: Source, n_outputs: int) -> None:
    """Raises ConfigError where pictures are to be augmented and there are none, a regime freezes what the network has not, starts from a file that does not fit it, or asks
    of the data or the network what they have not. `n_outputs`: of the network."""
    if config.augment and len(source.bank.input_shape) != 3:
        problem = f"changes pictures, and these samples have the shape {list(source.bank.input_shape)}; set augment=[]"
        raise ConfigError("augment", list(config.augment), problem)
    sizes = config.split.dataset_sizes()
    for regime in config.regimes:
        _check_network(config.arch, source.bank.input_shape, n_outputs, config.split.parts, regime)
        knobs = dict(regime.knobs)
        key = f"regime.{regime.name}"
        if knobs.get("n_chunks", 1) > sum(sizes):
            raise ConfigError(f"{key}.n_chunks", knobs["n_chunks"], f"is more than the {sum(sizes)} samples there are")
        if knobs.get("balanced") and source.is_regression:
            raise ConfigError(
                f"{key}.balanced", True, "balances over classes, and a regression has none; set it to false"
            )
        if "temperature" in knobs and config.loss == "mse":
            raise ConfigError(f"{key}.temperature", knobs["temperature"], "has no effect with loss=mse; leave it out")


@functools.lru_cache(maxsize=256)
def _check_network(
    arch: Architecture, input_shape: tuple[int, ...], n_outputs: int, n_parts: int, regime: RegimeConfig
) -> None:
    stages = REGIMES[regime.name](n_parts, **dict(regime.knobs))
    trainable = {stage.trainable for stage in stages if stage.trainable.kind != "all"}
    files = {stage.start.path for stage in stages if stage.start.path is not None}
    is_full = any(stage.penalty.kind == "ewc_full" for stage in stages)
    if not trainable and not files and not is_full:
        return
    model = build_meta_model(arch, input_shape, n_outputs)
    if is_full and (n := sum(p.numel() for p in model.parameters())) > FULL_UP_TO:
        fix = f"needs a matrix of {n:,} x {n:,} numbers; leave it false, or take a network of at most {FULL_UP_TO:,} weights"
        raise ConfigError(f"regime.{regime.name}.full", True, fix)
    for chosen in trainable:
        trainable_names(model, chosen)
    for file in files:
        read(file, model.state_dict(), f"regime.{regime.name}.checkpoint")
