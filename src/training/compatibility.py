"""Checks, before anything is trained, that the regimes fit the network and the data."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch

from src.config import Config
from src.config.checks import check_targets
from src.data.source import Source
from src.data.split import StreamFactory
from src.errors import ConfigError
from src.evaluation.heads import classes_by_part
from src.models.architecture import Architecture
from src.models.build import build_meta_model
from src.models.structure import has_batchnorm, head_names, n_parameters
from src.regimes.catalog import RegimeConfig
from src.regimes.checkpoint import read, read_backbone
from src.regimes.stage import Requirement, Stage
from src.training.plan import make_plan
from src.training.replicas import trainable_names


def check_cell(config: Config, streams: StreamFactory) -> None:
    """Raises ConfigError if the loss, stopping rule, augmentation, batches, or a regime's requirements, frozen layers
    or checkpoint do not fit the loaded data or the network."""
    source, n_outputs = streams.source, streams.n_outputs
    shape = source.bank.input_shape
    check_targets(config, is_regression=source.is_regression)
    config.arch.validate(shape, n_outputs)
    _check_weights(config.arch, shape, n_outputs)
    if config.augment and len(shape) != 3:
        problem = f"changes images, and these samples have the shape {list(shape)}; set augment=[]"
        raise ConfigError("augment", list(config.augment), problem)
    _check_heads(config, streams)
    for regime in config.regimes:
        _check_network(config.arch, shape, n_outputs, config.split.parts, regime, streams.class_names)
    for _, stage in _stages(config):
        for requirement in stage.requires:
            _check_requirement(config, source, n_outputs, requirement)
    if not _trains_on_one_sample(config.arch, shape, n_outputs):
        _check_batches(config, streams)


def _stages(config: Config) -> list[tuple[RegimeConfig, Stage]]:
    """Every stage of every regime."""
    return [(regime, stage) for regime in config.regimes for stage in regime.stages(config.split.parts)]


def _check_heads(config: Config, streams: StreamFactory) -> None:
    """Refuses softmaxes over some classes where they have no meaning, or where a method reads all outputs."""
    heads = config.split.heads
    grows = config.head == "grow"
    if heads == "shared" and not grows:
        return
    key, value, fix = ("head", "grow", "take full") if grows else ("split.heads", heads, "take shared")
    if config.loss != "cross_entropy" or config.label_smoothing:
        raise ConfigError(key, value, f"needs loss=cross_entropy and label_smoothing=0; {fix}")
    if config.trainer.precision == "16-mixed":
        raise ConfigError(key, value, f"needs outputs that half precision cannot hold; {fix}, or trainer.precision=32")
    if grows:
        _check_growing_head(config, streams)
        return
    every = [c for group in classes_by_part(streams.build(config.seeds[0])) for c in group]
    if heads == "own" and len(set(every)) < len(every):
        raise ConfigError(
            "split.heads", heads, "needs data sets without a common class; set split.classes, or take seen"
        )
    for regime, stage in _stages(config):
        if stage.penalty.kind in ("ewc", "ewc_full") or stage.targets.kind != "labels":
            problem = f"is not defined for {regime.name}, which reads all outputs; leave it out or take shared"
            raise ConfigError("split.heads", heads, problem)


def _check_growing_head(config: Config, streams: StreamFactory) -> None:
    """Refuses a growing head where another setting chooses outputs, or where its rows cannot be drawn or trained."""
    if config.split.heads != "shared":
        problem = "chooses among all outputs, and head=grow has none but those of the classes so far; leave it out"
        raise ConfigError("split.heads", config.split.heads, problem)
    model = build_meta_model(config.arch, streams.source.bank.input_shape, streams.n_outputs)
    if not (names := head_names(model, streams.n_outputs)):
        problem = f"needs a last layer with a row for each class, which {config.arch.name} does not have; take full"
        raise ConfigError("head", "grow", problem)
    for regime, stage in _stages(config):
        if not set(names) <= trainable_names(model, stage.trainable, f"regime.{regime.name}"):
            problem = f"freezes the head in {regime.label}, whose new rows must be trained; leave it out or take full"
            raise ConfigError("head", "grow", problem)


@functools.lru_cache(maxsize=256)
def _check_weights(arch: Architecture, input_shape: tuple[int, ...], n_outputs: int) -> None:
    """Refuses a file of weights whose layers below the head are not the network's."""
    if arch.weights is not None:
        model = build_meta_model(arch, input_shape, n_outputs)
        read_backbone(arch.weights, model.state_dict(), n_outputs, "arch.weights")


@functools.lru_cache(maxsize=256)
def _trains_on_one_sample(arch: Architecture, input_shape: tuple[int, ...], n_outputs: int) -> bool:
    """Whether the network has a variance to normalise by in a batch of one sample."""
    model = build_meta_model(arch, input_shape, n_outputs)
    if not has_batchnorm(model):
        return True
    try:
        model.train()(torch.empty(1, *input_shape, device="meta"))
    except ValueError:  # by torch's batch normalisation, of maps of one pixel
        return False
    return True


def _check_batches(config: Config, streams: StreamFactory) -> None:
    """Refuses a batch of one sample in any stage; all seeds have the same sizes."""
    stream = streams.build(config.seeds[0])

    def has_batch_of_one(config: Config) -> bool:
        plan = make_plan(config, {stream.seed: stream}, [(regime, stream.seed) for regime in config.regimes])
        return any(node.length.smallest_batch == 1 for node in plan.nodes.values())

    def with_batch(size: int) -> Config:
        return replace(config, optimizer=replace(config.optimizer, batch_size=size))

    if not has_batch_of_one(config):
        return
    given = config.optimizer.batch_size
    near = sorted(range(2, 1025), key=lambda size: abs(size - (given if isinstance(given, int) else 1024)))
    fit = next((size for size in near[:64] if not has_batch_of_one(with_batch(size))), None)
    problem = "leaves a batch of 1 sample, whose variance batch normalisation cannot take"
    fix = "raise split.sizes" if fit is None else f"set optimizer.batch_size={fit}"
    raise ConfigError("optimizer.batch_size", given, f"{problem}; {fix}")


def _check_requirement(config: Config, source: Source, n_outputs: int, required: Requirement) -> None:
    n = 0
    if required.needs == "samples":
        n = sum(config.split.dataset_sizes())
        holds = n >= required.limit
    elif required.needs == "parameters":
        n = n_parameters(build_meta_model(config.arch, source.bank.input_shape, n_outputs))
        holds = n <= required.limit
    elif required.needs == "classes":
        holds = not source.is_regression
    elif required.needs == "seen":
        holds = config.split.heads == "seen"
    else:
        holds = config.loss == required.needs
    if not holds:
        raise ConfigError(f"regime.{required.knob}", required.value, required.problem.format(n=n))


@functools.lru_cache(maxsize=256)
def _check_network(
    arch: Architecture,
    input_shape: tuple[int, ...],
    n_outputs: int,
    n_parts: int,
    regime: RegimeConfig,
    class_names: tuple[str, ...] | None,
) -> None:
    stages = regime.stages(n_parts)
    trainable = {stage.trainable for stage in stages if stage.trainable.kind != "all"}
    files = {stage.start.path for stage in stages if stage.start.path is not None}
    if not trainable and not files:
        return
    model = build_meta_model(arch, input_shape, n_outputs)
    for chosen in trainable:
        trainable_names(model, chosen, f"regime.{regime.name}")
    for file in files:
        read(file, model.state_dict(), f"regime.{regime.name}.checkpoint", class_names)
