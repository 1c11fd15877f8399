"""The same grid with default and with tuned settings, side by side.   python -m benchmarks.tuned multirun/DEFAULT multirun/TUNED

Reads two finished sweeps of equal axes; prints a Markdown table of the differences, and for each sweep its summary and how many
of its runs collapsed or end at chance.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.comparison.pairing import RunRecord, load_records
from src.comparison.sentences import summary
from src.comparison.tables import in_order, level_texts, varying_axes
from src.comparison.text_table import TextTable
from src.comparison.units import unit_of
from src.comparison.verdicts import CellVerdict, judge

CHANCE = 0.12
"""Balanced accuracy on the union up to which a run of ten classes counts as at chance."""
Place = tuple[str, ...]


def verdicts_of(runs: Sequence[RunRecord], sweep: Path) -> list[CellVerdict]:
    regimes = sorted({run.regime for run in runs}, key=lambda name: name == "combined")
    return judge(load_records(sweep), regimes)


def side_by_side(default: Sequence[CellVerdict], tuned: Sequence[CellVerdict]) -> TextTable:
    """One row for each cell that both have; a winner is emphasised."""
    axes = [axis for axis in varying_axes(tuned) if axis != "tune"]
    others: Mapping[Place, CellVerdict] = {level_texts(verdict, axes): verdict for verdict in default}
    rows = []
    for verdict in in_order(tuned):
        place = level_texts(verdict, axes)
        if (other := others.get(place)) is not None:
            rows.append((*place, *(text for one in (other, verdict) for text in texts(one))))
    heads = (*axes, "default", "wins", "tuned", "wins")
    return TextTable(heads=heads, rows=tuple(rows), align="r" * len(axes) + "rlrl")


def texts(verdict: CellVerdict) -> tuple[str, str]:
    unit = unit_of(verdict.metric)
    effect = (
        unit.estimate(verdict.difference, verdict.ci_low, verdict.ci_high) if verdict.difference is not None else "-"
    )
    return effect, f"**{verdict.winner}**" if verdict.certain else verdict.winner


def at_chance(runs: Sequence[RunRecord]) -> str:
    """Runs that collapsed, and runs whose balanced accuracy is that of guessing."""
    balanced = [run.metric("test/union/balanced_accuracy") for run in runs]
    low = sum(value is None or value <= CHANCE for value in balanced)
    return f"{sum(bool(run.collapsed) for run in runs)} of {len(runs)} runs collapsed, {low} end at chance"


def main() -> None:
    sweeps = [Path(word) for word in sys.argv[1:3]]
    runs = [load_records(sweep).runs for sweep in sweeps]
    verdicts = [verdicts_of(own, sweep) for own, sweep in zip(runs, sweeps, strict=True)]
    print(side_by_side(*verdicts).markdown())
    for name, own, found in zip(("default", "tuned"), runs, verdicts, strict=True):
        print(f"{name}: {summary(found)} {at_chance(own)}.")


if __name__ == "__main__":
    main()
