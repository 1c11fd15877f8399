"""The contrast of a statement: a table [seeds, columns] of values computed from a study's runs.

There is one column of one value per seed (a mean over cells), or one column for each cell or each condition of a trend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.claims.cell import MissingEvidence
from src.claims.claims import Statement, hydra_text
from src.claims.evidence import Evidence
from src.regimes.config import RegimeConfig

Column = dict[int, float]
"""One value for each seed."""
Columns = Mapping[str, Column]


@dataclass(frozen=True, kw_only=True, eq=False)
class ContrastTable:
    """Values [seeds, columns] and the label of each column."""

    values: NDArray[np.float64]
    columns: tuple[str, ...]


def contrast_table(statement: Statement, evidence: Evidence) -> ContrastTable:
    """The table of a statement's contrast. Raises MissingEvidence if a run is missing or diverged."""
    columns = CONTRASTS.get(statement.contrast, _mean_over_cells)(statement, evidence)
    seeds = _shared_seeds(columns.values())
    if not seeds:
        raise MissingEvidence("no seed has a value in every cell")
    values = np.array([[column[seed] for column in columns.values()] for seed in seeds])
    return ContrastTable(values=values, columns=tuple(columns))


def _mean_over_cells(statement: Statement, evidence: Evidence) -> Columns:
    return {"mean over cells": _mean(statement, evidence, statement.at)}


def _between_cells(statement: Statement, evidence: Evidence) -> Columns:
    first, second = (_mean(statement, evidence, at) for at in (statement.at, statement.minus_at))
    return {"mean over cells": _minus(first, second)}


def _trend(statement: Statement, evidence: Evidence) -> Columns:
    """Columns in the order of the regimes, or in that of the axis and averaged over the other axes."""
    at, along = statement.at, statement.along
    if along is None:
        return {one.label: _mean(statement, evidence, at, one) for one in statement.regimes}
    values = at.get(along, evidence.study.axes[along])
    return {hydra_text(value): _mean(statement, evidence, {**at, along: [value]}) for value in values}


def _everywhere(statement: Statement, evidence: Evidence) -> Columns:
    columns = {}
    for cell in evidence.study.cells(statement.at):
        coordinates = evidence.study.coordinates[cell].items()
        name = " ".join(f"{axis}={hydra_text(value)}" for axis, value in coordinates)
        columns[name] = _column(statement, evidence, cell, statement.regimes[0])
    return columns


CONTRASTS: dict[str, Callable[[Statement, Evidence], Columns]] = {
    "between_cells": _between_cells,
    "trend": _trend,
    "everywhere": _everywhere,
}
"""The contrasts other than a mean over cells."""


def _column(statement: Statement, evidence: Evidence, cell: int, regime: RegimeConfig) -> Column:
    """The statement's metric in one cell for every seed, minus that of the reference regime if there is one."""
    values = evidence.values(cell, regime, statement.metric)
    if statement.reference is None:
        return values
    return _minus(values, evidence.values(cell, statement.reference, statement.minus_metric or statement.metric))


def _mean(
    statement: Statement, evidence: Evidence, at: Mapping[str, Any], regime: RegimeConfig | None = None
) -> Column:
    """The mean column over the cells `at`, for the seeds that all of them have."""
    cells = evidence.study.cells(at)
    columns = [_column(statement, evidence, cell, regime or statement.regimes[0]) for cell in cells]
    return {seed: float(np.mean([column[seed] for column in columns])) for seed in _shared_seeds(columns)}


def _minus(a: Column, b: Column) -> Column:
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def _shared_seeds(columns: Iterable[Column]) -> list[int]:
    return sorted(set.intersection(*map(set, columns)))
