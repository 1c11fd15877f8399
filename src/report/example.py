"""One cell in detail: its data, its trained weights and their trajectory, for the plots of drift and landscape."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from src.claims.cell import CellRuns, MissingEvidence, dtype_of
from src.data.stream import Stream
from src.evaluation.flops import training_flops
from src.models.build import build_model
from src.training.result import StageResult

MOST_SECONDS = 5.0
"""Stages that took longer are not retrained."""
MOST_FLOATS = 40_000_000
"""Most numbers kept over all points of a path."""
PATH_POINTS = 48
MOST_STAGES = 12
MOST_SAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class WeightPath:
    """The weights of one run from its initial weights through all its stages, `weights[i]` after `updates[i]` updates.

    `boundaries`: updates at which later stages start. `exact`: the path ends at the stored weights.
    """

    updates: tuple[int, ...]
    weights: tuple[Mapping[str, Tensor], ...]
    boundaries: tuple[int, ...]
    exact: bool = True
    why_not_retrained: str = ""
    """Why the path has no points inside the stages; empty if it has."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One cell at one seed: a regime of several stages (`staged`) and one of a single stage (`other`)."""

    cell: CellRuns
    seed: int
    staged: str
    other: str
    stream: Stream
    model: nn.Module
    start: Mapping[str, Tensor]
    """The seed's initial weights."""
    finals: Mapping[str, Sequence[StageResult]]
    """Regime -> results of its stages."""

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the network's weights."""
        return dtype_of(self.start)

    @property
    def forward_flops(self) -> int:
        """Floating-point operations of one sample through the network."""
        return training_flops(self.cell.config.arch, self.stream.input_shape, self.stream.n_outputs) // 3

    def samples_within(self, flops: float, n_evaluations: int, *, least: int = 50) -> int:
        """Number of samples for which `n_evaluations` cost at most `flops`. Raises MissingEvidence below `least`."""
        n = int(flops / max(1, n_evaluations * self.forward_flops))
        if n < least:
            size = f"{self.forward_flops / 1e6:.0f} MFLOP a sample"
            raise MissingEvidence(f"{n_evaluations:,} evaluations of this network ({size}) take too long")
        return min(n, MOST_SAMPLES)

    def loaded(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """The network with these weights, in evaluation mode."""
        self.model.load_state_dict(dict(weights))
        return self.model.eval()


def load_example(cell: CellRuns, seed: int, labels: Sequence[str]) -> Example:
    """One cell at one seed. Raises MissingEvidence if there is nothing to compare or the weights are gone."""
    finished = [label for label in labels if (label, seed) in set(cell.finished())]
    n_stages = {label: cell.runs[label, seed].n_stages for label in finished}
    staged = next((label for label in finished if n_stages[label] > 1), None)
    if staged is None:
        raise MissingEvidence("no regime here has more than one stage")
    other = next((label for label in finished if n_stages[label] == 1), None)
    if other is None:
        raise MissingEvidence(f"no regime of one stage accompanies {staged}")
    stream = cell.factory.build(seed)
    finals = {label: cell.stages(label, seed) for label in (staged, other)}
    dtype = dtype_of(finals[staged][0].weights)
    model = build_model(cell.config.arch, stream.input_shape, stream.n_outputs, seed, dtype).eval()
    start = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return Example(
        cell=cell, seed=seed, staged=staged, other=other, stream=stream, model=model, start=start, finals=finals
    )


def path_of(example: Example, regime: str) -> WeightPath:
    """The trajectory of a run's weights; only the ends of its stages if these cannot be retrained."""
    results = example.finals[regime]
    ends = (0, *itertools.accumulate(result.ledger.updates for result in results))
    try:
        _check_cost(example, results)
        return _retrained_path(example, regime, ends)
    except (MissingEvidence, ValueError) as why:
        weights = (example.start, *(result.weights for result in results))
        return WeightPath(updates=ends, weights=weights, boundaries=ends[1:-1], why_not_retrained=str(why))


def _retrained_path(example: Example, regime: str, ends: Sequence[int]) -> WeightPath:
    """Raises ValueError if the stages cannot be trained as before."""
    from src.training.devices import device_of
    from src.training.trajectory import TrajectoryRequest, nodes_of, points, record_trajectories

    config, store, results = example.cell.config, example.cell.store, example.finals[regime]
    device = device_of(config.trainer)
    if any(result.ledger.device != device.torch_device.type for result in results):
        raise MissingEvidence(f"it was trained on {results[0].ledger.device}, and this is {device.torch_device.type}")
    keys = list(example.cell.runs[regime, example.seed].provenance["stage_keys"])
    by_key = dict(zip(keys, results, strict=True))
    updates, weights, exact = [0], [example.start], True
    for node, result, start in zip(nodes_of(config, example.stream, regime, keys), results, ends, strict=False):
        parent = by_key[node.parents[0]] if node.parents else None
        if not node.stage.reset_optimizer and parent is not None:
            parent = store.get(node.parents[0], need_optimizer=True) or parent
        stage = TrajectoryRequest(node, result, parent, points(result.ledger.updates, PATH_POINTS))
        (trajectory,) = record_trajectories(config, [stage], device)
        exact = exact and trajectory.exact
        updates += [start + k for k in trajectory.updates[1:]]
        weights += trajectory.weights[1:]
    return WeightPath(updates=tuple(updates), weights=tuple(weights), boundaries=tuple(ends[1:-1]), exact=exact)


def _check_cost(example: Example, results: Sequence[StageResult]) -> None:
    """Raises MissingEvidence where retraining takes too long or too much memory.

    A stage's seconds are its share of its group's; stacked models take about as long alone as together.
    """
    if len(results) > MOST_STAGES:
        raise MissingEvidence(f"it has {len(results)} stages")
    seconds = sum(r.ledger.seconds * (r.ledger.group if r.ledger.engine == "vmap" else 1) for r in results)
    if seconds > MOST_SECONDS * len(results):
        raise MissingEvidence(f"retraining its stages would take about {seconds:.0f} s")
    n_floats = sum(tensor.numel() for tensor in example.start.values()) * PATH_POINTS * len(results)
    if n_floats > MOST_FLOATS:
        raise MissingEvidence(f"its path has {n_floats / 1e6:,.0f} million weights, more than are kept")
