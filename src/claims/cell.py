"""The runs of one cell with their trained weights: the input of probes and statements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from src.cells.resolve import ResolvedCell
from src.comparison.pairing import RunRecord
from src.config import Config
from src.data.split import StreamFactory
from src.data.stream import Samples, Stream
from src.models.build import build_model
from src.training.result import StageResult
from src.training.store.store import Store


class MissingEvidence(Exception):
    """Why a statement cannot be judged, or a plot cannot be drawn; the message has no full stop."""


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """Named values by (regime label, seed), and notes on the whole cell for the reader."""

    values: Mapping[tuple[str, int], Mapping[str, float]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class CellRuns:
    """A cell's configuration, hash, runs by (regime label, seed), streams and stage store."""

    config: Config
    cell: str
    runs: Mapping[tuple[str, int], RunRecord]
    factory: StreamFactory
    store: Store = field(repr=False)
    probe_results: dict[str, ProbeResult] = field(default_factory=dict, repr=False)
    """Results of the probes that have run, by name."""

    @classmethod
    def of(cls, cell: ResolvedCell, runs: Iterable[RunRecord], store: Store) -> CellRuns:
        by_key = {(run.regime, run.seed): run for run in runs}
        config = replace(cell.config, regimes=cell.regimes_as_trained)
        return cls(config=config, cell=cell.hash, runs=by_key, factory=cell.streams, store=store)

    def finished(self) -> Iterator[tuple[str, int]]:
        """(regime label, seed) of the finished runs, sorted."""
        return iter(sorted(key for key, run in self.runs.items() if not run.diverged))

    def common_seeds(self, *labels: str) -> list[int]:
        """Seeds for which all these regimes finished. Raises MissingEvidence if there is none."""
        done = set(self.finished())
        seeds = [seed for seed in self.config.seeds if all((label, seed) in done for label in labels)]
        if not seeds:
            raise MissingEvidence(f"no seed finished in {' and '.join(labels)}")
        return seeds

    def trained_pairs(self) -> Iterator[tuple[tuple[str, int], list[Stream], list[Mapping[str, Tensor]]]]:
        """Streams and final weights of two seeds of a regime, with its label and the first seed.

        The pairs are disjoint, so that values of pairs are independent.
        """
        done, seeds = set(self.finished()), self.config.seeds
        for label in sorted({label for label, _ in done}):
            for pair in zip(seeds[::2], seeds[1::2], strict=False):
                if {(label, seed) for seed in pair} <= done:
                    weights = [self.final_weights(label, seed) for seed in pair]
                    yield (label, pair[0]), [self.factory.build(seed) for seed in pair], weights

    def stages(self, label: str, seed: int) -> list[StageResult]:
        """The stages of a run, from the store. Raises MissingEvidence if any was evicted."""
        run = self.runs[label, seed]
        keys = run.provenance.get("stage_keys") or []
        stored = [stage for stage in map(self.store.get, keys) if stage is not None]
        if not stored or len(stored) < len(keys):
            gone = f"the weights of {label}, seed {seed}, are no longer in the stage store"
            raise MissingEvidence(f"{gone}; remove {run.path.parent} to train them again")
        return stored

    def final_weights(self, label: str, seed: int) -> Mapping[str, Tensor]:
        return self.stages(label, seed)[-1].weights

    def model(self, stream: Stream, weights: Mapping[str, Tensor]) -> nn.Module:
        """The cell's network with these weights, in evaluation mode."""
        model = build_model(self.config.arch, stream.input_shape, stream.n_outputs, stream.seed, dtype_of(weights))
        model.load_state_dict(dict(weights))
        return model.eval()


def dtype_of(weights: Mapping[str, Tensor]) -> torch.dtype:
    """The floating-point type of the weights."""
    return next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())


def training_samples(parts: Sequence[Samples], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Inputs [samples, ...] and targets [samples] of several data sets, concatenated."""
    y = torch.cat([part.y for part in parts])
    return torch.cat([part.inputs(dtype) for part in parts]), y.to(dtype) if y.is_floating_point() else y
