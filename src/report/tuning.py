"""Tuning: the values that each regime was compared with, and the best score expected of fewer trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.comparison.pairing import grouped
from src.comparison.statistics import Floats
from src.comparison.tuning import Tuned, best_of, best_of_band, side_by_side, tuning_table
from src.comparison.units import name_of, unit_of
from src.comparison.verdicts import CellVerdict, by_pair
from src.report.plots import Canvas, Plot, panel
from src.report.tables import page_table


def tuning_section(
    verdicts: Sequence[CellVerdict], tuning: Mapping[tuple[str, str], Tuned], canvas: Canvas
) -> dict[str, Any] | None:
    """Table, plot and sentence of the section; None if nothing was tuned."""
    table = tuning_table(verdicts, tuning)
    if table is None:
        return None
    objective = next(iter(tuning.values())).objective
    groups = {
        regime: [one for (_, name), one in tuning.items() if name == regime and one.objective == objective]
        for regime in canvas.styles
    }
    curves = {regime: _mean_curve(cells) for regime, cells in groups.items() if cells}
    by_kind = grouped(
        next(iter(by_pair(verdicts).values())), lambda verdict: any(verdict.cell == cell for cell, _ in tuning)
    )
    return {
        "side_by_side": page_table(side_by_side(by_kind[False], by_kind[True])) if len(by_kind) == 2 else None,
        "table": page_table(table),
        "caption": table.title,
        "plot": _plot(curves, objective, canvas),
        "text": _in_words(curves, objective, max(map(len, groups.values()))),
    }


def _mean_curve(cells: Sequence[Tuned]) -> tuple[Floats, Floats, Floats]:
    """Expected best score of k trials and the ends of its band, averaged over the cells of one regime: [k] each."""
    n = min(len(one.trials) for one in cells)
    curves = []
    for one in cells:
        scores = one.scores()
        lowest, highest = (0.0, 1.0) if unit_of(one.objective).higher_is_better else (min(scores), 0.0)
        curves.append([values[:n] for values in (best_of(scores), *best_of_band(scores, lowest, highest))])
    mean, low, high = np.mean(curves, axis=0)
    return mean, low, high


def _plot(curves: Mapping[str, tuple[Floats, Floats, Floats]], objective: str, canvas: Canvas) -> Plot:
    unit = unit_of(objective)
    scale = unit.sign * unit.scale
    ax = panel("best of k trials", "trials k", f"{name_of(objective)} {unit.of_values}".rstrip())
    ends = []
    for regime, (mean, low, high) in curves.items():
        k, style = np.arange(1, len(mean) + 1), canvas.styles[regime]
        ax.fill_between(k, scale * low, scale * high, color=style.ink, alpha=0.12, linewidth=0)
        ax.plot(k, scale * mean, **style.line, marker=style.marker, markersize=3.5, linewidth=1.7)
        ends.append(f"{regime} from {scale * mean[0]:.4g} to {scale * mean[-1]:.4g}")
    alt = f"Expected best {name_of(objective)} over the number of trials, mean over cells: {'; '.join(ends)}."
    return canvas.save(ax, "tuning", alt)


def _in_words(curves: Mapping[str, tuple[Floats, Floats, Floats]], objective: str, n_cells: int) -> str:
    """The expected best scores and the first two regimes' difference after 1, 2, 4, ... trials."""
    unit, n = unit_of(objective), min(len(mean) for mean, *_ in curves.values())
    shown = sorted({*(2**power for power in range(n.bit_length()) if 2**power <= n), n})
    values = {regime: [unit.sign * mean[k - 1] for k in shown] for regime, (mean, *_) in curves.items()}
    texts = [f"{regime} {', '.join(map(unit.value, own))}" for regime, own in values.items()]
    text = f"Expected best after {', '.join(map(str, shown))} trials, mean over {n_cells} cells: {'; '.join(texts)}."
    if len(values) > 1:
        (a, first), (b, second) = list(values.items())[:2]
        differences = [unit.difference(x - y) for x, y in zip(first, second, strict=True)]
        text += f" {a} - {b}: {', '.join(differences)} {unit.of_differences}".rstrip() + "."
    return text
