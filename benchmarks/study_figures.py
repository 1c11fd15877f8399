"""The picture of a study whose regimes are compared with a baseline, from the sweep's results.

    python -m src.sweep -m study=rewarm_replay && python -m benchmarks.study_figures rewarm-replay docs/rewarm.png
    python -m src.sweep -m study=warm_start_gap && python -m benchmarks.study_figures warm-start-gap docs/warm-start-gap.png

A panel for each cell: accuracy on the union less the baseline's, in points, mean and 95 % interval over seeds (sign-flip test). Also
prints these numbers with the share of the regime's training after Dataset 1 in the baseline's whole training.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from src.comparison.pairing import RunRecord
from src.comparison.statistics import sign_flip_interval, sign_flip_p
from src.report.command import read_sweep

matplotlib.use("Agg")
from matplotlib import pyplot as plt

METRIC = "test/union/accuracy"
SHADES = ("#08306b", "#2171b5", "#6baed6", "#f16913")


@dataclass(frozen=True)
class Figure:
    """How the regimes of a study are arranged: a line for each `line`, along `at`."""

    baseline: str
    line: Callable[[RunRecord], str]
    at: Callable[[RunRecord], str]
    along: str
    panel: Callable[[RunRecord], str]


def _knob(run: RunRecord, name: str, default: float) -> float:
    """A knob of the run's regime, read from its label."""
    inside = run.regime.partition("(")[2].rstrip(")")
    return float(dict(part.split("=") for part in inside.split(",") if part).get(name, default))


def _number(text: str) -> float:
    """The number before a per cent sign; 0 for a text without one."""
    return float(text.removesuffix(" %")) if text.endswith(" %") else 0.0


FIGURES: Mapping[str, Figure] = {
    "rewarm-replay": Figure(
        baseline="combined",
        line=lambda run: f"peak rate x {_knob(run, 'lr_factor', 1):g}",
        at=lambda run: f"{100 * _knob(run, 'share', 0):g} %",
        along="draws of stage 2 from Dataset 1",
        panel=lambda run: f"rotated by {str(run.axes['shift']).partition(':')[2]} degrees",
    ),
    "warm-start-gap": Figure(
        baseline="combined",
        line=lambda run: run.regime,
        at=lambda run: str(run.axes.get("augment", "[]")).strip("[]").replace(",", "+") or "none",
        along="augmentation",
        panel=lambda run: f"schedule {run.axes.get('optimizer.schedule', 'constant')}",
    ),
}


def draw(sweep: str, target: Path, multirun: Path = Path("multirun")) -> None:
    """Draws the figure and prints its numbers."""
    figure, runs = FIGURES[sweep], read_sweep(multirun, sweep).records.runs
    values = {(run.cell, run.regime, run.seed): 100 * run.result["metrics"][METRIC] for run in runs}
    panels = sorted({figure.panel(run) for run in runs})
    shown, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        own = {(run.cell, run.regime): run for run in runs if figure.panel(run) == panel}
        own = {key: run for key, run in own.items() if run.regime != figure.baseline}
        places = sorted(
            {figure.at(run) for run in own.values()}, key=lambda text: (_number(text), text != "none", len(text))
        )
        lines: dict[str, list[tuple[int, Sequence[float]]]] = {}
        for (cell, label), run in own.items():
            seeds = sorted(s for c, r, s in values if (c, r) == (cell, label) and (c, figure.baseline, s) in values)
            differences = np.array([values[cell, label, s] - values[cell, figure.baseline, s] for s in seeds])
            low, high = (float(end) for end in sign_flip_interval(differences))
            mean, p = float(differences.mean()), float(sign_flip_p(differences))
            print(
                f"{panel:22} {figure.at(run):12} {label:36} {mean:+6.2f} [{low:+.2f}, {high:+.2f}] p = {p:.3g}, n = {len(seeds)}"
            )
            lines.setdefault(figure.line(run), []).append((places.index(figure.at(run)), (mean, low, high)))
        for number, (name, points) in enumerate(sorted(lines.items(), reverse=True)):
            x = [place for place, _ in sorted(points)]
            mean, low, high = np.array([found for _, found in sorted(points)]).T
            at = np.array(x) + 0.06 * (number - len(lines) / 2)
            axis.errorbar(
                at, mean, [mean - low, high - mean], fmt="o-", ms=4, capsize=2, color=SHADES[number % 4], label=name
            )
        axis.axhline(0, color="black", lw=0.8)
        axis.set_xticks(range(len(places)), places)
        axis.set_title(panel, fontsize=10)
        axis.set_xlabel(figure.along)
    axes[0][0].set_ylabel(f"union accuracy - {figure.baseline}'s, points")
    axes[0][0].legend(fontsize=8)
    shown.tight_layout()
    shown.savefig(target, dpi=110)


if __name__ == "__main__":
    draw(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else Path("multirun"))
