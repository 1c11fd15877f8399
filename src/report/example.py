"""One cell in detail: its data, its trained weights and their trajectory, for the plots of drift and landscape."""

from __future__ import annotations

import itertools
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
"""Stages that took longer are not retrained."""
MOST_FLOATS = 40_000_000
"""Most numbers kept over all points of a path."""
PATH_POINTS = 48
MOST_STAGES = 12


class Unavailable(Exception):
    """The reason why a plot cannot be made, as a sentence without a full stop."""


@dataclass(frozen=True, kw_only=True)
class WeightPath:
    """The weights of one run from its initial weights through all its stages, `weights[i]` after `updates[i]` updates.

    `boundaries`: updates at which later stages start. `exact`: the path ends at the stored weights. `retrained`: it has
    points inside the stages; otherwise `why_not_retrained` gives the reason.
    """

    updates: tuple[int, ...]
    weights: tuple[Mapping[str, Tensor], ...]
    boundaries: tuple[int, ...]
    exact: bool
    why_not_retrained: str = ""

    @property
    def retrained(self) -> bool:
        """Whether the path has points inside the stages."""
        return not self.why_not_retrained


@dataclass(frozen=True, kw_only=True)
class Example:
    """One cell at one seed: a regime of several stages (`staged`) and one of a single stage (`other`).

    `finals`: regime -> results of its stages; `start`: the seed's initial weights.
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
        """Number of samples for which `n_evaluations` cost at most `flops`. Raises Unavailable if it is below `least`."""
        n = int(flops / max(1, n_evaluations * self.forward_flops))
        if n < least:
            size = f"{self.forward_flops / 1e6:.0f} MFLOP a sample"
            raise Unavailable(f"{n_evaluations:,} evaluations of this network ({size}) take too long")
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
    """Load one cell at one seed. Raises Unavailable if there is nothing to compare or weights are missing."""
    at_seed = {run.regime: run for run in runs if run.seed == seed and not run.diverged}
    staged = next((name for name in labels if name in at_seed and at_seed[name].n_stages > 1), None)
    if staged is None:
        raise Unavailable("no regime here has more than one stage")
    other = next((name for name in labels if name in at_seed and at_seed[name].n_stages == 1), None)
    if other is None:
        raise Unavailable(f"no regime of one stage accompanies {staged}")
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
    """The results of a run's stages from the store. Raises Unavailable if any is missing."""
    keys = run.provenance.get("stage_keys") or []
    found = [store.get(key) for key in keys]
    kept = tuple(result for result in found if result is not None)
    if not keys or len(kept) < len(keys):
        raise Unavailable(f"the weights of {run.regime}, seed {run.seed}, are no longer in the stage store")
    return kept


def path_of(example: Example, regime: str, n_points: int = PATH_POINTS) -> WeightPath:
    """The trajectory of a run's weights; only the ends of its stages if these cannot be retrained."""
    results = example.finals[regime]
    ends = [0, *itertools.accumulate(result.ledger.updates for result in results)]
    try:
        return _retrained_path(example, regime, results, ends, n_points)
    except Unavailable as why:
        weights = (example.start, *(result.weights for result in results))
        inner = tuple(ends[1:-1])
        return WeightPath(
            updates=tuple(ends), weights=weights, boundaries=inner, exact=True, why_not_retrained=str(why)
        )


def _retrained_path(
    example: Example, regime: str, results: Sequence[StageResult], ends: Sequence[int], n_points: int
) -> WeightPath:
    _check_cost(example, results, n_points)
    from src.training.devices import device_of
    from src.training.trajectory import TrajectoryRequest, nodes_of, points, record_trajectories

    config, keys = example.config, list(example.runs[regime].provenance["stage_keys"])
    device = device_of(config.trainer)
    if any(result.ledger.device != device.torch_device.type for result in results):
        raise Unavailable(f"it was trained on {results[0].ledger.device}, and this is {device.torch_device.type}")
    updates: list[int] = [0]
    weights: list[Mapping[str, Tensor]] = [example.start]
    exact = True
    by_key = dict(zip(keys, results, strict=True))
    try:
        nodes = nodes_of(config, example.stream, regime, keys)
        for node, result, start in zip(nodes, results, ends, strict=False):
            parent = by_key[node.parents[0]] if node.parents else None
            if not node.stage.reset_optimizer and parent is not None:
                parent = example.store.get(node.parents[0], need_optimizer=True) or parent
            stage = TrajectoryRequest(node, result, parent, points(result.ledger.updates, n_points))
            (trajectory,) = record_trajectories(config, [stage], device)
            exact = exact and trajectory.exact
            updates += [start + k for k in trajectory.updates[1:]]
            weights += trajectory.weights[1:]
    except ValueError as error:
        raise Unavailable(str(error)) from None
    return WeightPath(updates=tuple(updates), weights=tuple(weights), boundaries=tuple(ends[1:-1]), exact=exact)


def _check_cost(example: Example, results: Sequence[StageResult], n_points: int) -> None:
    """Raises Unavailable where retraining takes too long or too much memory.

    A stage's seconds are its share of its group's; stacked models take about as long alone as together.
    """
    if len(results) > MOST_STAGES:
        raise Unavailable(f"it has {len(results)} stages")
    seconds = sum(r.ledger.seconds * (r.ledger.group if r.ledger.engine == "vmap" else 1) for r in results)
    if seconds > MOST_SECONDS * len(results):
        raise Unavailable(f"retraining its stages would take about {seconds:.0f} s")
    n_floats = sum(tensor.numel() for tensor in example.start.values()) * n_points * len(results)
    if n_floats > MOST_FLOATS:
        raise Unavailable(f"its path has {n_floats / 1e6:,.0f} million weights, more than are kept")
