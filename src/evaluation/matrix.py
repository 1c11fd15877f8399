"""Forgetting and transfer, from the accuracy matrix of a run.

`matrix[i][j]` is the accuracy on data set j after stage i, both counted from 0; None where it is undefined. `parts[i]`
lists the data sets in the mixture of stage i. A data set is learned by the first stage whose mixture contains it;
"after its stage" means after that one. The last row is the model that is kept. Undefined is None, never 0: it stays so
through every mean.
"""

from __future__ import annotations

from collections.abc import Sequence

Matrix = Sequence[Sequence[float | None]]
Parts = Sequence[Sequence[int]]


def average_accuracy(matrix: Matrix) -> float | None:
    """Mean accuracy over all data sets after the last stage (ACC of Lopez-Paz & Ranzato 2017, eq. 2)."""
    return _mean(list(matrix[-1]))


def learning_accuracy(matrix: Matrix, parts: Parts) -> float | None:
    """Mean accuracy over the trained data sets, each right after its stage (Riemer et al. 2019)."""
    return _mean([matrix[stage][part] for part, stage in _learned_by(matrix, parts).items()])


def backward_transfer(matrix: Matrix, parts: Parts) -> float | None:
    """Mean over the data sets learned before the last stage of accuracy at the end minus accuracy right after their
    stage.

    BWT of Lopez-Paz & Ranzato 2017, eq. 3. None if every data set is learned in the last stage, as in combined.
    """
    last = len(matrix) - 1
    earlier = {part: stage for part, stage in _learned_by(matrix, parts).items() if stage < last}
    return _mean([_difference(matrix[last][part], matrix[stage][part]) for part, stage in earlier.items()])


def forward_transfer(matrix: Matrix, parts: Parts, initial: Sequence[float | None]) -> float | None:
    """Mean over the data sets learned after the first stage of accuracy just before their stage minus `initial`, that
    of the untrained network (FWT of Lopez-Paz & Ranzato 2017, eq. 4). None if stage 1 learns every data set."""
    later = {part: stage for part, stage in _learned_by(matrix, parts).items() if stage}
    return _mean([_difference(matrix[stage - 1][part], initial[part]) for part, stage in later.items()])


def forgetting(matrix: Matrix, parts: Parts) -> float | None:
    """Mean over the data sets learned before the last stage of best accuracy after an earlier stage minus that at the
    end.

    Chaudhry et al. 2018, eq. 3; stages before the data set's own count too, as they do there. With two stages this is
    matrix[0][0] - matrix[1][0], minus the backward transfer. None if every data set is learned in the last stage.
    """
    last = len(matrix) - 1
    drops: list[float | None] = []
    for part, stage in _learned_by(matrix, parts).items():
        if stage == last:
            continue
        earlier = [row[part] for row in matrix[:last]]
        known = [value for value in earlier if value is not None]
        best = max(known) if len(known) == len(earlier) else None
        drops.append(_difference(best, matrix[last][part]))
    return _mean(drops)


def _learned_by(matrix: Matrix, parts: Parts) -> dict[int, int]:
    """Data set to the first stage whose mixture contains it."""
    assert len(matrix) == len(parts) > 0, "one row per stage"
    first: dict[int, int] = {}
    for stage, mixture in enumerate(parts):
        for part in mixture:
            first.setdefault(part, stage)
    return first


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) > 0 else None
