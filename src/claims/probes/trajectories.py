"""Trains the last stage of runs again to record the weights along its trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from src.claims.cell import CellRuns, MissingEvidence
from src.data.stream import Stream
from src.training.devices import device_of
from src.training.trajectory import Trajectory, TrajectoryRequest, nodes_of, record_trajectories


def last_stage_trajectories(
    cell: CellRuns, regime: str, seeds: Sequence[int], updates: Callable[[int], Sequence[int]]
) -> Iterator[tuple[Stream, Trajectory]]:
    """The stream and the trajectory of the last stage for each seed, for runs of two stages.

    `updates`: from the stage's number of updates to those after which its weights are recorded. Raises MissingEvidence
    if the stage cannot be trained as before.
    """
    streams, stages = [], []
    try:
        for seed in seeds:
            stream = cell.factory.build(seed)
            first, second = cell.stages(regime, seed)
            *_, node = nodes_of(cell.config, stream, regime, cell.runs[regime, seed].provenance["stage_keys"])
            streams.append(stream)
            stages.append(TrajectoryRequest(node, second, first, updates(second.ledger.updates)))
        found = record_trajectories(cell.config, stages, device_of(cell.config.trainer))
        yield from zip(streams, found, strict=True)
    except ValueError as error:
        raise MissingEvidence(f"cell {cell.cell}: {error}") from None
