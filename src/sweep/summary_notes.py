"""What a command says below its table: the classes, checkpoints as they are, and the commands that come next."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence

import numpy as np

from src.cells.resolve import ResolvedCell
from src.comparison.pairing import RunRecord
from src.comparison.transfer import mean_matrix
from src.comparison.units import unit_of
from src.comparison.verdicts import CellVerdict
from src.config.command import on_sweep
from src.regimes.checkpoint import parts_of

CLOSE = 0.8
"""Similarity of two class names from which they may be one class, as difflib measures it: dog and dogs have 0.86."""


def notes_of(cells: Sequence[ResolvedCell], runs: Sequence[RunRecord] = ()) -> list[str]:
    """The notes of a command's cells, each once."""
    found = []
    for cell in cells:
        found += [f"classes: {cell.classes}"] if cell.classes else []
        found += [*spelling(cell), *_checkpoints(cell, [run for run in runs if run.cell == cell.hash])]
    return list(dict.fromkeys(found))


def next_commands(
    cells: Sequence[ResolvedCell], verdicts: Sequence[CellVerdict], runs: Sequence[RunRecord]
) -> list[str]:
    """The commands that make the page of a sweep and write a network of it: a winner's, or one that leads."""
    config, own = cells[0].config, [verdict for verdict in verdicts if verdict.certain] or verdicts
    trained = [run for run in runs if not run.diverged]
    if own:
        what, regime, cell = "the winner's network", own[0].winner, own[0].cell
        if not own[0].certain:
            what, regime = "a network", _leader(own[0])
    elif trained:
        what, regime, cell = "the network", trained[0].regime, trained[0].cell
    else:
        return []
    which = f" cell={cell[:8]}" if len(cells) > 1 else ""
    export = f"{on_sweep('export', cells[0].sweep_dir, config.plugins)}{which} {shlex.quote(f'regime={regime}')}"
    return [f"page: {on_sweep('report', cells[0].sweep_dir, config.plugins)}", f"{what}: {export}"]


def _leader(verdict: CellVerdict) -> str:
    """The regime with the better mean, the first one if the means are equal or unknown."""
    lead = verdict.difference or 0.0
    return verdict.b if (lead < 0) == unit_of(verdict.metric).higher_is_better and lead else verdict.a


def spelling(cell: ResolvedCell) -> list[str]:
    """A remark for each new class whose name is close to that of one that Dataset 2 lacks."""
    names, split = cell.streams.class_names, cell.config.split
    if names is None or not split.priors or len(split.priors) != 2:
        return []
    first, second = split.priors
    gone = {name.casefold(): name for name, a, b in zip(names, first, second, strict=True) if a and not b}
    new = [name for name, a, b in zip(names, first, second, strict=True) if b and not a]
    close = {name: difflib.get_close_matches(name.casefold(), gone, n=1, cutoff=CLOSE) for name in new}
    return [
        f"Dataset 2 has a new class {name} and lacks {gone[found[0]]}; if they are one class, spell them alike"
        for name, found in close.items()
        if found
    ]


def _checkpoints(cell: ResolvedCell, runs: Sequence[RunRecord]) -> list[str]:
    """How good each checkpoint is before it is trained further, and what may make it look better or worse."""
    found = []
    for regime in cell.config.regimes:
        own = [run for run in runs if run.regime == regime.label and not run.diverged]
        file = dict(regime.knobs).get("checkpoint")
        if file is None or (matrix := mean_matrix(own)) is None or np.isnan(matrix[0]).any():
            continue
        scores = ", ".join(f"{100 * value:.1f} % on Dataset {part}" for part, value in enumerate(matrix[0], start=1))
        text = f"checkpoint {parts_of(file).path}, before it is trained on: {scores}, on test samples"
        if len(cell.streams.source.bank.input_shape) == 3 and cell.config.split.pixels == "standard":
            text += "; if that is less than you know it for, it may expect pixels from 0 to 1: add split.pixels=unit"
        if cell.streams.source.official_test is None:
            text += "; if it was trained on these samples, it looks too good here: keep them apart in train/ and test/"
        found.append(text)
    return found
