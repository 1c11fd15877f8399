"""The values that statements read: metrics of a study's runs, and the contrast that a statement makes of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.claims.cell import CellRuns, MissingEvidence
from src.claims.claims import Statement, Study
from src.claims.probes.catalog import PROBES
from src.comparison.metrics import metric_terms, run_metric
from src.comparison.pairing import RunRecord
from src.comparison.statistics import Floats
from src.config import parse_regime
from src.config.command import text_of
from src.regimes.config import RegimeConfig


def cell_metric(cell: CellRuns, label: str, seed: int, metric: str) -> float | None:
    """A metric, or sum of metrics, of one run; None if undefined. Raises MissingEvidence without a finished run."""
    run = cell.runs.get((label, seed))
    if run is None:
        raise MissingEvidence(f"{label}, seed {seed}, has no result in cell {cell.cell}")
    if run.diverged:
        raise MissingEvidence(f"{label}, seed {seed}, diverged in cell {cell.cell}")
    total = 0.0
    for factor, name in metric_terms(metric):
        value = _term(cell, run, name)
        if value is None:
            return None
        total += factor * value
    return total


def _term(cell: CellRuns, run: RunRecord, name: str) -> float | None:
    probe, _, value = name.partition("/")
    if probe not in PROBES:
        return run_metric(run, name)
    if probe not in cell.probe_results:
        cell.probe_results[probe] = PROBES[probe](cell)
    return cell.probe_results[probe].values.get((run.regime, run.seed), {}).get(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """The cells of a study, in the order of `study.coordinates`."""

    study: Study
    cells: tuple[CellRuns, ...]

    def values(self, cell: int, regime: RegimeConfig, metric: str) -> Floats:
        """The metric of one cell and regime, [seeds]; NaN where undefined. Raises MissingEvidence without a run."""
        if len(self.devices) > 1:
            raise MissingEvidence("some runs were made on CPU and some on CUDA, which are never paired")
        runs = self.cells[cell]
        found = [cell_metric(runs, regime.label, seed, metric) for seed in range(self.study.seeds)]
        values = np.array([np.nan if value is None else value for value in found])
        if np.isnan(values).all():
            raise MissingEvidence(f"{metric} is undefined for {regime.label} in cell {runs.cell}")
        return values

    @functools.cached_property
    def devices(self) -> set[str]:
        """Kinds of device that the study's runs were made on."""
        return {run.device for cell in self.cells for run in cell.runs.values()}

    def remarks(self) -> Iterator[str]:
        """Remarks for the reader: stages that did not converge, and the notes of the probes."""
        catalog, numbers = self.study.catalog, {cell.config.n_parts for cell in self.cells}
        labels = {parse_regime(entry, n, catalog).label for n in numbers for entry in self.study.regimes}
        runs = [run for cell in self.cells for (label, _), run in cell.runs.items() if label in labels]
        converged = [s["converged"] for run in runs for s in run.result["stages"] if s["converged"] is not None]
        if capped := sum(done is False for done in converged):
            yield f"{capped} of {len(converged)} stages not converged"
        metrics = {text for one in self.study.statements for text in (one.metric, one.minus_metric) if text}
        probes = {name.partition("/")[0] for text in metrics for _, name in metric_terms(text)}
        for cell in self.cells:
            for name, result in cell.probe_results.items():
                if name in probes:
                    yield from result.notes


@dataclass(frozen=True, kw_only=True, eq=False)
class ContrastTable:
    """The contrast of a statement: values [seeds, columns] and the label of each column.

    There is one column (a mean over cells), or one for each cell or each condition of a trend.
    """

    values: Floats
    columns: tuple[str, ...]


def contrast_table(statement: Statement, evidence: Evidence) -> ContrastTable:
    """A statement's table, for the seeds with all values. Raises MissingEvidence if a run is missing or diverged."""
    study, at, along = evidence.study, statement.at, statement.along
    regimes, reference = statement.regimes(study.catalog), statement.reference(study.catalog)

    def column(cell: int, regime: RegimeConfig) -> Floats:
        """The metric in one cell, minus that of the reference regime if there is one."""
        values = evidence.values(cell, regime, statement.metric)
        if reference is None:
            return values
        return values - evidence.values(cell, reference, statement.minus_metric or statement.metric)

    def mean(at: Mapping[str, Any], regime: RegimeConfig = regimes[0]) -> Floats:
        return np.asarray(np.stack([column(cell, regime) for cell in study.cells(at)], axis=1).mean(axis=1))

    if statement.contrast == "everywhere":
        names = [" ".join(f"{axis}={text_of(v)}" for axis, v in cell.items()) for cell in study.coordinates]
        columns = {names[cell]: column(cell, regimes[0]) for cell in study.cells(at)}
    elif statement.contrast == "between_cells":
        columns = {"mean over cells": mean(at) - mean(statement.minus_at)}
    elif statement.contrast == "trend" and along is not None:
        columns = {text_of(value): mean({**at, along: [value]}) for value in at.get(along, study.axes[along])}
    elif statement.contrast == "trend":
        columns = {regime.label: mean(at, regime) for regime in regimes}
    else:
        columns = {"mean over cells": mean(at)}
    values = np.stack(list(columns.values()), axis=1)
    values = values[~np.isnan(values).any(axis=1)]
    if not len(values):
        raise MissingEvidence("no seed has a value in every cell")
    return ContrastTable(values=values, columns=tuple(columns))
