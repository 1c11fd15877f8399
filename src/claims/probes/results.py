"""What a probe gives back, and the trained weights it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from src.claims.evidence import CellEvidence, Missing
from src.data.stream import Stream
from src.models.build import build_model
from src.training.result import StageResult


@dataclass(frozen=True, eq=False)
class Readings:
    """Named numbers by (regime label, seed), and notes for the reader that are about the whole cell."""

    values: Mapping[tuple[str, int], Mapping[str, float]]
    notes: tuple[str, ...] = ()


def stages_of(evidence: CellEvidence, label: str, seed: int) -> list[StageResult]:
    """What the stages of a run left in the store. Raises Missing where any of it is gone."""
    run = evidence.runs[label, seed]
    found = [evidence.store.get(key) for key in run.provenance["stage_keys"]]
    kept = [result for result in found if result is not None]
    if len(kept) < len(found) or not found:
        raise Missing(
            f"the weights of {label}, seed {seed}, are no longer in the stage store; remove {run.path.parent}"
        )
    return kept


def ends_of(evidence: CellEvidence, label: str, seed: int) -> list[Mapping[str, Tensor]]:
    """The weights after every stage of a run."""
    return [result.weights for result in stages_of(evidence, label, seed)]


def model_of(evidence: CellEvidence, stream: Stream, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network of the cell with these weights, in evaluation mode."""
    model = build_model(evidence.config.arch, stream.input_shape, stream.n_outputs, stream.seed, dtype_of(weights))
    model.load_state_dict(dict(weights))
    return model.eval()


def dtype_of(weights: Mapping[str, Tensor]) -> torch.dtype:
    """The precision of the weights."""
    return next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())


def finished(evidence: CellEvidence, *labels: str) -> list[int]:
    """Seeds at which all these regimes finished. Raises Missing if there is none."""
    runs = evidence.runs
    done = [s for s in evidence.config.seeds if all((la, s) in runs and not runs[la, s].diverged for la in labels)]
    if not done:
        raise Missing(f"no seed finished in {' and '.join(labels)}")
    return done
