"""Checks, before anything is trained, that the regimes fit the network and the data."""

from __future__ import annotations

import functools

from src.config import Config
from src.data.source import Source
from src.errors import ConfigError
from src.models.architecture import Architecture
from src.models.build import build_meta_model
from src.regimes.checkpoint import read
from src.regimes.config import RegimeConfig
from src.regimes.stage import Requirement
from src.training.replicas import trainable_names


def check_regimes(config: Config, source: Source, n_outputs: int) -> None:
    """Raises ConfigError if the augmentation, a regime's requirements, its frozen layers or its checkpoint do not fit the
    data or the network, which has `n_outputs` outputs."""
    shape = source.bank.input_shape
    if config.augment and len(shape) != 3:
        problem = f"changes images, and these samples have the shape {list(shape)}; set augment=[]"
        raise ConfigError("augment", list(config.augment), problem)
    for regime in config.regimes:
        _check_network(config.arch, shape, n_outputs, config.split.parts, regime)
        for stage in regime.stages(config.split.parts):
            for requirement in stage.requires:
                _check_requirement(config, source, n_outputs, requirement)


def _check_requirement(config: Config, source: Source, n_outputs: int, required: Requirement) -> None:
    n = 0
    if required.needs == "samples":
        n = sum(config.split.dataset_sizes())
        holds = n >= required.limit
    elif required.needs == "parameters":
        model = build_meta_model(config.arch, source.bank.input_shape, n_outputs)
        n = sum(parameter.numel() for parameter in model.parameters())
        holds = n <= required.limit
    elif required.needs == "classes":
        holds = not source.is_regression
    else:
        holds = config.loss == required.needs
    if not holds:
        raise ConfigError(f"regime.{required.knob}", required.value, required.problem.format(n=n))


@functools.lru_cache(maxsize=256)
def _check_network(
    arch: Architecture, input_shape: tuple[int, ...], n_outputs: int, n_parts: int, regime: RegimeConfig
) -> None:
    stages = regime.stages(n_parts)
    trainable = {stage.trainable for stage in stages if stage.trainable.kind != "all"}
    files = {stage.start.path for stage in stages if stage.start.path is not None}
    if not trainable and not files:
        return
    model = build_meta_model(arch, input_shape, n_outputs)
    for chosen in trainable:
        trainable_names(model, chosen)
    for file in files:
        read(file, model.state_dict(), f"regime.{regime.name}.checkpoint")
