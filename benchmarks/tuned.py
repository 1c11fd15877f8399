"""The same grid with default and with tuned settings, side by side.   python -m benchmarks.tuned multirun/DEFAULT multirun/TUNED

Reads two finished sweeps of equal axes and regimes; prints, for each regime but combined, a Markdown table of its differences from
combined with the verdicts of both sweeps, and for each sweep its summary and how many of its runs collapsed or end at chance; then
what tuning chose, how often at an edge of its space, and the expected best score of fewer trials.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from src.comparison.families import read_families
from src.comparison.pairing import RunRecord, grouped, load_records
from src.comparison.sentences import summary
from src.comparison.tables import level_texts
from src.comparison.tuning import Tuned, best_of, side_by_side, tuning_of
from src.comparison.verdicts import CellVerdict, by_pair, judge

CHANCE = 0.12
"""Balanced accuracy on the union up to which a run of ten classes counts as at chance."""


def verdicts_of(runs: Sequence[RunRecord], sweep: Path) -> list[CellVerdict]:
    regimes = sorted({run.regime for run in runs}, key=lambda name: name == "combined")
    return judge(load_records(sweep), regimes, baseline="combined", families=read_families(sweep))


def at_chance(runs: Sequence[RunRecord]) -> str:
    """Runs that collapsed, and runs whose balanced accuracy is that of guessing."""
    balanced = [run.metric("test/union/balanced_accuracy") for run in runs]
    low = sum(value is None or value <= CHANCE for value in balanced)
    return f"{sum(bool(run.collapsed) for run in runs)} of {len(runs)} runs collapsed, {low} end at chance"


def in_words(tuning: Iterable[Tuned]) -> list[str]:
    """For each regime: the range of every chosen value, how many of them are at an edge, and the best of 1, 2, 4, ... trials."""
    lines = []
    for regime, cells in grouped(tuning, lambda one: one.regime).items():
        for key in cells[0].chosen.values:
            values = [one.chosen.values[key] for one in cells]
            n_edge = sum(key in one.edges for one in cells)
            lines.append(
                f"{regime}: {key} {min(values):.3g} to {max(values):.3g}, at an edge in {n_edge} of {len(cells)} cells"
            )
        n = len(cells[0].trials)
        means = np.mean([best_of(one.scores()) for one in cells], axis=0)
        counts = [2**k for k in range(n.bit_length())]
        best = ", ".join(f"{100 * means[k - 1]:.1f}" for k in counts)
        lines.append(f"{regime}: expected best score after {', '.join(map(str, counts))} trials, %: {best}")
    return lines


def main() -> None:
    sweeps = [Path(word) for word in sys.argv[1:3]]
    runs = [load_records(sweep).runs for sweep in sweeps]
    judged = [by_pair(verdicts_of(own, sweep)) for own, sweep in zip(runs, sweeps, strict=True)]
    for pair in judged[1]:
        print(f"{pair[0]} - {pair[1]}\n\n{side_by_side(judged[0][pair], judged[1][pair]).markdown()}")
        for name, found in zip(("default", "tuned"), judged, strict=True):
            print(f"{name}: {summary(found[pair])}\n")
        winners = [
            {level_texts(own, [axis for axis in own.axes if axis != "tune"]): own.winner for own in found[pair]}
            for found in judged
        ]
        flipped = sum(winners[0].get(place) != winner for place, winner in winners[1].items())
        print(f"{flipped} of {len(winners[1])} verdicts differ\n")
    for name, own in zip(("default", "tuned"), runs, strict=True):
        print(f"{name}: {at_chance(own)}.")
    cells, regimes = {run.cell for run in runs[1]}, {run.regime for run in runs[1]}
    print("\n".join(in_words(tuning_of(sweeps[1], sorted(cells), sorted(regimes)).values())))


if __name__ == "__main__":
    main()
