"""From regimes x seeds to unique stages: equal ones are recognised by their content and trained once, parents first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from src.config import SCHEMA_VERSION, Config
from src.data.batches import MixtureData, mixture_data
from src.data.stream import EvaluationSet, Stream
from src.errors import ConfigError
from src.evaluation.heads import Groups, classes_by_part
from src.io import digest
from src.optimizers import OptimizerConfig
from src.regimes.catalog import RegimeConfig
from src.regimes.checkpoint import parts_of
from src.regimes.stage import Mixture, Penalty, Stage, Start, Targets
from src.stopping.length import Length, StageSize
from src.typed import content

DataOf = Callable[[Stream, Mixture, int], MixtureData]


@dataclass(frozen=True, eq=False)
class Node:
    """One stage to train."""

    key: str
    """Digest of everything that the stage's result depends on."""
    prefix_key: str | None
    """Digest without the length: stages with the same one share their first updates. None if the schedule or the
    stopping rule depends on the length."""
    seed: int
    stage: Stage
    optimizer: OptimizerConfig
    """The settings of the run's regime."""
    data: MixtureData
    length: Length
    span: tuple[int, int]
    """(Updates before, updates in all) of the stages over which the learning rate's schedule extends."""
    parents: tuple[str, ...]
    """Stages that the starting weights come from, in the order of `stage.start.of`."""
    penalty_parent: str | None
    """The stage that the penalty refers to."""
    teachers: tuple[str, ...]
    """Stages whose networks give the replayed samples their targets, for each part but the last."""
    heads: Groups
    """The softmaxes of the classes learned so far; none: one over all outputs."""
    outputs: tuple[int, ...]
    """The classes that the head has: all unless it grows."""
    parent_outputs: tuple[tuple[int, ...], ...]
    """The classes that the head of each parent has."""
    monitor: EvaluationSet | None
    """The validation set that the stopping rule measures; None: it measures none."""
    stream: Stream
    level: int
    """0 for a stage without parents, otherwise 1 above its highest parent."""
    shape: str
    """Stages of equal shape may train in one group."""

    @property
    def new_outputs(self) -> list[int]:
        """Classes that first appear in this stage: a growing head draws their rows."""
        return sorted(set(self.outputs).difference(*self.parent_outputs)) if self.parents else []


@dataclass(frozen=True)
class Run:
    """One regime at one seed: the keys of its stages, first to last; the last one's weights are the run's."""

    regime: RegimeConfig
    seed: int
    stages: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class StagePlan:
    """The unique stages of a cell, the groups they train in, and the runs they serve.

    `keep_optimizer`: stages whose optimizer state a later stage inherits.
    """

    nodes: Mapping[str, Node]
    groups: tuple[tuple[str, ...], ...]
    runs: tuple[Run, ...]
    keep_optimizer: frozenset[str]


def make_plan(config: Config, streams: Mapping[int, Stream], wanted: Iterable[tuple[RegimeConfig, int]]) -> StagePlan:
    """The plan of the runs `wanted` = (regime, seed), given the stream of every seed."""
    nodes: dict[str, Node] = {}
    runs = []
    data_of = functools.cache(mixture_data)  # most regimes share mixtures
    for regime, seed in wanted:
        chain = _chain(config, regime, streams[seed], data_of)
        if not config.trainer.reuse:
            chain = _without_reuse(chain, regime)
        for node in chain:
            nodes.setdefault(node.key, node)
        runs.append(Run(regime, seed, tuple(node.key for node in chain)))
    by_shape: dict[tuple[int, int, str], list[str]] = {}
    for node in nodes.values():
        by_shape.setdefault((node.level, node.length.updates, node.shape), []).append(node.key)
    # within a level short stages come first, since longer ones may resume from them
    groups = tuple(tuple(keys) for _, keys in sorted(by_shape.items(), key=lambda item: item[0][:2]))
    kept = {node.parents[0] for node in nodes.values() if node.parents and not node.stage.reset_optimizer}
    return StagePlan(nodes=nodes, groups=groups, runs=tuple(runs), keep_optimizer=frozenset(kept))


def _chain(config: Config, regime: RegimeConfig, stream: Stream, data_of: DataOf) -> list[Node]:
    """The stages of one run as nodes; a stage without samples is left out and its successors start from its parent."""
    config, stages = config.of(regime), regime.stages(config.split.parts)
    sizes = [len(part) for part in stream.train]
    data: list[MixtureData] = []
    counted: list[int] = []  # the size that decides a stage's share of the budget
    for stage in stages:
        parts = stage.mixture.parts if stage.counts_as is None else stage.counts_as
        size = sum(sizes[part] for part in parts)
        data.append(data_of(stream, stage.mixture, size))
        counted.append(data[-1].n_samples if stage.counts_as is None else size)
    present = [k for k in range(len(stages)) if data[k].n_samples and counted[k]]
    trained = [k for k in present if stages[k].budget]
    if not present:
        raise ConfigError("split.sizes", sizes, f"leaves nothing to train on for regime {regime.label}")
    stage_sizes = [
        StageSize(
            n_draws=data[k].n_draws,
            n_counted=counted[k],
            first_alone=stages[k].mixture.parts == (0,) and stages[k].start.kind == "fresh",
            factor=stages[k].budget,
            repeats=data[k].repeats,
            batch_factor=stages[k].batch_factor,
        )
        for k in trained
    ]
    lengths = dict(zip(trained, config.stopping.lengths(stage_sizes, sizes, config.optimizer.batch_size), strict=True))
    spans = _spans(config, stages, lengths)
    node_of: dict[int, Node] = {}  # stage number -> the node that has its weights
    for k, stage in enumerate(stages):
        if k in present:
            length = lengths.get(k, Length(data[k].n_draws, 1, 0, 0))
            node_of[k] = _node(config, stream, stage, data[k], length, spans[k], node_of)
        elif stage.start.of and stage.start.of[0] in node_of:
            node_of[k] = node_of[stage.start.of[0]]
    return [node_of[k] for k in present]


def _spans(config: Config, stages: Sequence[Stage], lengths: Mapping[int, Length]) -> list[tuple[int, int]]:
    """See `Node.span`: of every stage its own updates, or those of all stages on the same fresh weights."""
    own = [lengths[k].updates if k in lengths else 0 for k in range(len(stages))]
    if config.optimizer.span == "stage":
        return [(0, updates) for updates in own]
    roots: list[int] = []
    before: list[int] = []
    for k, stage in enumerate(stages):
        of = stage.start.of[0] if stage.start.of else None
        roots.append(k if of is None else roots[of])
        before.append(0 if of is None else before[of] + own[of])
    ends = list(zip(roots, (b + n for b, n in zip(before, own, strict=True)), strict=True))
    return [(b, max(end for other, end in ends if other == root)) for root, b in zip(roots, before, strict=True)]


def _without_reuse(chain: Sequence[Node], regime: RegimeConfig) -> list[Node]:
    """The same stages under keys of their own, so that nothing is reused."""
    named = {node.key: digest([node.key, regime.label]) for node in chain}
    return [
        replace(
            node,
            key=named[node.key],
            prefix_key=None,
            parents=tuple(named[key] for key in node.parents),
            penalty_parent=named.get(node.penalty_parent or ""),
            teachers=tuple(named[key] for key in node.teachers),
        )
        for node in chain
    ]


def _node(
    config: Config,
    stream: Stream,
    stage: Stage,
    data: MixtureData,
    length: Length,
    span: tuple[int, int],
    node_of: Mapping[int, Node],
) -> Node:
    parents = tuple(node_of[k] for k in stage.start.of if k in node_of)
    if len(parents) < len(stage.start.of):
        sizes = [len(part) for part in stream.train]
        stage = replace(stage, start=_start_without(stage.start, frozenset(node_of), sizes))
    of = stage.penalty.of
    holds = None if of is None or stage.penalty.kind == "none" else node_of.get(of)
    if holds is None and of is not None:
        stage = replace(stage, penalty=Penalty())
    teachers: tuple[Node, ...] = ()
    if stage.targets.kind != "labels" and data.counts is not None:
        earlier = zip(stage.mixture.parts[:-1], stage.targets.of, strict=True)
        teachers = tuple(node_of[k] for part, k in earlier if len(stream.train[part]))
    if not teachers:
        stage = replace(stage, targets=Targets())
    if parents and not parents[0].length.updates:  # an optimizer without updates has no state
        stage = replace(stage, reset_optimizer=True)
    start = replace(stage.start, of=())
    if start.path is not None:  # identified by its content, not its path
        start = replace(start, path=parts_of(start.path).identity)
    monitor = _monitor(config, stage, stream)
    outputs = _outputs(config.head, stage, stream, parents)
    parent_outputs = tuple(parent.outputs for parent in parents)
    heads = _heads(config.split.heads, stage, stream, parents)
    if len(outputs) < stream.n_outputs:
        heads = (outputs,)
    recipe = _recipe(config, stage, stream) | ({"heads": [list(group) for group in heads]} if heads else {})
    recipe |= {"span": list(span)} if length.updates and span != (0, length.updates) else {}
    if any(own != outputs for own in parent_outputs):
        recipe["parent_outputs"] = [list(own) for own in parent_outputs]
    elif config.head == "grow" and heads:  # a head that is whole from the start is the full one
        recipe["head"] = "grow"
    shape = digest({**recipe, "length": asdict(length)})
    identity = {
        "schema": SCHEMA_VERSION,
        "shape": shape,
        "start": content(start, ("alpha",)),
        "seed": stream.seed,
        "data": data.digest,
        "input_shape": list(stream.input_shape),
        "n_outputs": stream.n_outputs,
        "parents": [parent.key for parent in parents],
        "holds": holds.key if holds else None,
        "validation": [pool.digest for pool in stream.val.pools],
        **({"targets": [teacher.key for teacher in teachers]} if teachers else {}),
        "monitor": {pool: digest(w.tolist()) for pool, w in monitor.weights.items()} if monitor else None,
    }
    level = max((1 + node.level for node in (*parents, *teachers, holds) if node is not None), default=0)
    return Node(
        key=digest(identity),
        prefix_key=_prefix_key(config, identity, recipe, length),
        seed=stream.seed,
        stage=stage,
        optimizer=config.optimizer,
        data=data,
        length=length,
        span=span,
        parents=tuple(parent.key for parent in parents),
        penalty_parent=holds.key if holds else None,
        teachers=tuple(teacher.key for teacher in teachers),
        heads=heads,
        outputs=outputs,
        parent_outputs=parent_outputs,
        monitor=monitor,
        stream=stream,
        level=level,
        shape=shape,
    )


def _heads(heads: str, stage: Stage, stream: Stream, parents: Sequence[Node]) -> Groups:
    """The softmaxes of the classes learned so far: one of all (``seen``), or one a data set (``own``)."""
    if heads == "shared":
        return ()
    by_part = classes_by_part(stream)
    own = (by_part[part] for part in stage.mixture.parts if by_part[part])
    groups = tuple(dict.fromkeys([*(group for parent in parents for group in parent.heads), *own]))
    return groups if heads == "own" else (tuple(sorted({c for group in groups for c in group})),)


def _outputs(head: str, stage: Stage, stream: Stream, parents: Sequence[Node]) -> tuple[int, ...]:
    """The classes that the head has: all, or those that the stage, its parents and a checkpoint learn."""
    every = tuple(range(stream.n_outputs))
    if head == "full":
        return every
    known = {c for parent in parents for c in parent.outputs}
    if stage.start.path is not None:
        named = parts_of(stage.start.path).classes
        names = stream.class_names or ()
        known = set(every) if named is None else {names.index(name) for name in named if name in names}
    own = {c for part in stage.mixture.parts for c in stream.train[part].y.tolist()}
    return tuple(sorted(known | own))


def _start_without(start: Start, there: frozenset[int], sizes: Sequence[int]) -> Start:
    """The start if only the stages `there` have data: the average of those, otherwise fresh weights."""
    kept = {of: weight for of, weight in zip(start.of, start.weights, strict=False) if of in there}
    if start.kind != "average" or not kept:
        return Start()
    total = sum(kept.values())
    if not total:
        problem = "leaves an average whose only weight is on a model without data; change it or the regime's weight"
        raise ConfigError("split.sizes", list(sizes), problem)
    return replace(start, of=tuple(kept), weights=tuple(weight / total for weight in kept.values()))


def _prefix_key(config: Config, identity: Mapping[str, Any], recipe: Mapping[str, Any], length: Length) -> str | None:
    """See `Node.prefix_key`. None also with a loss scale or with counts of `online`, which a resume point does not
    hold."""
    plain = config.stopping.is_fixed_length and config.optimizer.is_constant
    if not plain or config.online or config.trainer.precision == "16-mixed" or not length.updates:
        return None
    epoch = {"n_draws": length.n_draws, "batch_size": length.batch_size, "all_at_once": length.all_at_once}
    return digest({**identity, "shape": digest({**recipe, "epoch": epoch})})


def _recipe(config: Config, stage: Stage, stream: Stream) -> dict[str, Any]:
    """What stages of one group have in common besides the length: all but seed, data, start and parents."""
    return {
        **_shared_recipe(config),
        "trainable": asdict(stage.trainable),
        "penalty": stage.penalty.recipe(),
        **({"targets": asdict(replace(stage.targets, of=()))} if stage.targets.kind != "labels" else {}),
        "reset_optimizer": stage.reset_optimizer or stage.start.kind == "fresh",
        "lr_factor": stage.lr_factor,
        "validation_sizes": [len(pool) for pool in stream.val.pools],
    }


@functools.lru_cache(maxsize=1)
def _shared_recipe(config: Config) -> dict[str, Any]:
    """The part that all stages of a regime share: it takes longer than everything else in a node."""
    recipe = config.recipe()
    shared = ("arch", "optimizer", "trainer", "loss", "online", "label_smoothing", "augment", "plugins")
    return {
        **{key: recipe[key] for key in shared if key in recipe},
        "optimizer": {key: value for key, value in recipe["optimizer"].items() if key != "span"},  # see `_node`
        # a fixed length says it all: 5 epochs of a budget are 5 epochs
        "stopping": None if config.stopping.is_fixed_length else recipe["stopping"],
        "curve_points": config.trainer.curve_points,
    }


def _monitor(config: Config, stage: Stage, stream: Stream) -> EvaluationSet | None:
    """The validation set that the stopping rule measures, by default weighted like the stage's mixture."""
    measurement = config.stopping.measurement
    if measurement is None or measurement.data != "validation":
        return None
    if measurement.on != "own":
        return stream.val.sets[measurement.on]
    mixture = stage.mixture
    sizes: list[float] = [len(part) for part in stream.train]
    if mixture.shares is not None:
        for part, share in zip(mixture.parts, mixture.shares, strict=True):
            sizes[part] = share if sizes[part] else 0
    present = [part for part in mixture.parts if sizes[part]]
    total = sum(sizes[part] for part in present)
    weights: dict[int, Any] = {}
    for part in present:
        for pool, w in stream.val.sets[f"d{part + 1}"].weights.items():
            weights[pool] = weights.get(pool, 0) + w * (sizes[part] / total)
    return EvaluationSet(weights)
