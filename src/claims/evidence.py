"""What a study's runs say: the number of every cell, regime and seed that a statement asks for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from src.claims.claims import Study
from src.comparison.metrics import parse_metric, run_metric
from src.comparison.pairing import RunRecord
from src.config import Config, parse_regime
from src.data.split import StreamFactory
from src.regimes.config import RegimeConfig
from src.training.store.store import Store

if TYPE_CHECKING:
    from src.claims.probes.results import Readings


class Missing(Exception):
    """Why a statement cannot be judged, as a sentence without its full stop."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CellEvidence:
    """One cell: its configuration, its hash, its runs by (regime label, seed), and what its weights lie in."""

    config: Config
    cell: str
    runs: Mapping[tuple[str, int], RunRecord]
    factory: StreamFactory
    store: Store = field(repr=False)
    readings: dict[str, Readings] = field(default_factory=dict, repr=False)
    """Of probes that were asked for, by their name."""

    def value(self, regime: RegimeConfig, seed: int, metric: str) -> float | None:
        """A metric (an expression) of one run; None where it is undefined. Raises Missing without a finished run."""
        run = self.runs.get((regime.label, seed))
        if run is None:
            raise Missing(f"{regime.label}, seed {seed}, has no result in cell {self.cell}")
        if run.diverged:
            raise Missing(f"{regime.label}, seed {seed}, diverged in cell {self.cell}")
        total = 0.0
        for factor, name in parse_metric(metric).terms:
            value = self._term(run, name)
            if value is None:
                return None
            total += factor * value
        return total

    def _term(self, run: RunRecord, name: str) -> float | None:
        from src.claims.probes.catalog import PROBES  # loads torch, which most statements do without

        probe, _, inner = name.partition("/")
        if probe not in PROBES:
            return run_metric(run, name)
        if probe not in self.readings:
            self.readings[probe] = PROBES[probe](self)
        return self.readings[probe].values.get((run.regime, run.seed), {}).get(inner)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """The cells of a study, in the order of `study.places`."""

    study: Study
    cells: tuple[CellEvidence, ...]

    def numbers(self, cell: int, regime: RegimeConfig, metric: str) -> dict[int, float]:
        """The metric of one cell and regime at every seed that has it. Raises Missing where a run is not there."""
        if len(self.devices) > 1:
            raise Missing("some runs were made on CPU and some on CUDA, which are never paired")
        evidence = self.cells[cell]
        values = {seed: evidence.value(regime, seed, metric) for seed in range(self.study.seeds)}
        found = {seed: value for seed, value in values.items() if value is not None}
        if not found:
            raise Missing(f"{metric} is undefined for {regime.label} in cell {evidence.cell}")
        return found

    @functools.cached_property
    def devices(self) -> set[str]:
        """Kinds of device that the study's runs were made on."""
        return {run.device for cell in self.cells for run in cell.runs.values()}

    def remarks(self) -> list[str]:
        """What a reader should know besides: stages that hit their cap, and what the probes that were asked say."""
        labels = {parse_regime(entry, cell.config.n_parts).label for cell in self.cells for entry in self.study.regimes}
        runs = [run for cell in self.cells for (label, _), run in cell.runs.items() if label in labels]
        asked = [stage["converged"] for run in runs for stage in run.result["stages"] if stage["converged"] is not None]
        capped = sum(done is False for done in asked)
        said = [f"{capped} of {len(asked)} stages not converged"] if capped else []
        texts = [text for one in self.study.statements for text in (one.metric, one.minus_metric) if text]
        probes = {name.partition("/")[0] for text in texts for name in parse_metric(text).names}
        read = [one for cell in self.cells for name, one in cell.readings.items() if name in probes]
        return [*said, *(note for one in read for note in one.notes)]
