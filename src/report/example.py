"""One cell taken apart: its data, its trained weights and the way to them, for the pictures of drift and landscape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from src.comparison.pairing import RunRecord
from src.config import Config
from src.data.split import StreamFactory
from src.data.stream import Stream
from src.evaluation.flops import training_flops
from src.evaluation.labelled import MOST_SAMPLES
from src.models.build import build_model
from src.training.result import StageResult
from src.training.store.store import Store

MOST_SECONDS = 5.0
"""Stages that took longer are not trained again to watch them."""
MOST_FLOATS = 40_000_000
"""Weights that are kept of all points of a path together."""
PATH_POINTS = 48
MOST_STAGES = 12


class Unavailable(Exception):
    """Why a picture cannot be made, as a sentence without its full stop."""


@dataclass(frozen=True, kw_only=True)
class WeightPath:
    """The weights of one run, from its fresh start through all its stages: `updates[i]` since the very start."""

    updates: tuple[int, ...]
    weights: tuple[Mapping[str, Tensor], ...]
    boundaries: tuple[int, ...]
    exact: bool
    watched: bool
    """Between the ends of the stages too; else `not_watched` says why not."""
    not_watched: str = ""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One cell at one seed: a regime of several stages (`staged`) beside another (`other`).

    `finals`: regime -> weights after each of its stages; `start`: the seed's fresh weights.
    """

    config: Config
    factory: StreamFactory
    cell: str
    seed: int
    staged: str
    other: str
    stream: Stream
    model: nn.Module
    start: Mapping[str, Tensor]
    finals: Mapping[str, tuple[StageResult, ...]]
    runs: Mapping[str, RunRecord]
    store: Store = field(repr=False)

    @property
    def forward_flops(self) -> int:
        """Floating-point operations of one sample through the network."""
        return training_flops(self.config.arch, self.stream.input_shape, self.stream.n_outputs) // 3

    def samples_within(self, flops: float, n_evaluations: int, *, least: int = 50) -> int:
        """How many samples so many evaluations can afford; raises Unavailable where it is too few to mean anything."""
        n = int(flops / max(1, n_evaluations * self.forward_flops))
        if n < least:
            raise Unavailable(
                f"{n_evaluations:,} evaluations of this network ({self.forward_flops / 1e6:.0f} MFLOP a sample) take too long"
            )
        return min(n, MOST_SAMPLES)


def load_example(
    config: Config,
    factory: StreamFactory,
    cell: str,
    seed: int,
    runs: Sequence[RunRecord],
    labels: Sequence[str],
    store: Store,
) -> Example:
    """The example of one cell and seed; raises Unavailable where there is nothing to compare or the weights are gone."""
    at_seed = {run.regime: run for run in runs if run.seed == seed and not run.diverged}
    staged = next((name for name in labels if name in at_seed and at_seed[name].n_stages > 1), None)
    if staged is None:
        raise Unavailable("no regime here has more than one stage")
    other = next((name for name in labels if name in at_seed and at_seed[name].n_stages == 1), None)
    if other is None:
        raise Unavailable(f"no regime of one stage stands beside {staged}")
    stream = factory.build(seed)
    finals = {name: stages_of(at_seed[name], store) for name in (staged, other)}
    dtype = next(iter(finals[staged][0].weights.values())).dtype
    dtype = dtype if dtype.is_floating_point else torch.float32
    model = build_model(config.arch, stream.input_shape, stream.n_outputs, seed, dtype).eval()
    start = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return Example(
        config=config,
        factory=factory,
        cell=cell,
        seed=seed,
        staged=staged,
        other=other,
        stream=stream,
        model=model,
        start=start,
        finals=finals,
        runs={name: at_seed[name] for name in (staged, other)},
        store=store,
    )


def stages_of(run: RunRecord, store: Store) -> tuple[StageResult, ...]:
    """What the stages of a run left in the store; raises Unavailable where any of it is gone."""
    keys = run.provenance.get("stage_keys") or []
    found = [store.get(key) for key in keys]
    kept = tuple(result for result in found if result is not None)
    if not keys or len(kept) < len(keys):
        raise Unavailable(f"the weights of {run.regime}, seed {run.seed}, are no longer in the stage store")
    return kept


# ------------------------------------------------------------------------------------------------ paths


def path_of(example: Example, regime: str, n_points: int = PATH_POINTS) -> WeightPath:
    """The way of a run's weights. Where a stage cannot be watched again, the ends of its stages alone."""
    results = example.finals[regime]
    ends = [0]
    for result in results:
        ends.append(ends[-1] + result.ledger.updates)
    try:
        return _watched(example, regime, results, ends, n_points)
    except Unavailable as why:
        weights = (example.start, *(result.weights for result in results))
        reason = str(why)
        return WeightPath(
            updates=tuple(ends),
            weights=weights,
            boundaries=tuple(ends[1:-1]),
            exact=True,
            watched=False,
            not_watched=reason,
        )


def _watched(
    example: Example, regime: str, results: Sequence[StageResult], ends: Sequence[int], n_points: int
) -> WeightPath:
    _check_cost(example, results, n_points)
    from src.training.devices import place_of
    from src.training.trajectory import Watched, nodes_of, points, trajectories

    config, run = example.config, example.runs[regime]
    keys = list(run.provenance["stage_keys"])
    try:
        nodes = nodes_of(config, example.stream, regime, keys)
    except ValueError as error:
        raise Unavailable(str(error)) from None
    place = place_of(config.trainer)
    if any(result.ledger.device != place.device.type for result in results):
        raise Unavailable(f"it was trained on {results[0].ledger.device}, and here is {place.device.type}")
    updates: list[int] = [0]
    weights: list[Mapping[str, Tensor]] = [example.start]
    exact = True
    by_key = dict(zip(keys, results, strict=True))
    for node, result, begun in zip(nodes, results, ends, strict=False):
        parent = by_key[node.parents[0]] if node.parents else None
        if not node.stage.reset_optimizer and parent is not None:
            parent = example.store.get(node.parents[0], need_optimizer=True) or parent
        try:
            watched = Watched(node, result, parent, points(result.ledger.updates, n_points))
            (on_the_way,) = trajectories(config, [watched], place)
        except ValueError as error:
            raise Unavailable(str(error)) from None
        exact = exact and on_the_way.exact
        updates += [begun + k for k in on_the_way.updates[1:]]
        weights += on_the_way.weights[1:]
    return WeightPath(
        updates=tuple(updates), weights=tuple(weights), boundaries=tuple(ends[1:-1]), exact=exact, watched=True
    )


def _check_cost(example: Example, results: Sequence[StageResult], n_points: int) -> None:
    """A stage's seconds are its share of its group's; stacked models train about as long alone as together."""
    if len(results) > MOST_STAGES:
        raise Unavailable(f"it has {len(results)} stages")
    seconds = sum(r.ledger.seconds * (r.ledger.group if r.ledger.engine == "vmap" else 1) for r in results)
    if seconds > MOST_SECONDS * len(results):
        raise Unavailable(f"training its stages again would take about {seconds:.0f} s")
    n_floats = sum(tensor.numel() for tensor in example.start.values()) * n_points * len(results)
    if n_floats > MOST_FLOATS:
        raise Unavailable(f"{n_floats / 1e6:,.0f} million weights along its path would have to be kept")
