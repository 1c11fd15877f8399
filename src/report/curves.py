"""A few representative cells: validation curves across stages, and recall of every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from src.comparison.pairing import RunRecord
from src.comparison.sentences import sentence, sentence_elsewhere
from src.comparison.statistics import Floats
from src.comparison.tables import level_texts, varying_axes
from src.comparison.units import set_title, unit_of
from src.comparison.verdicts import CellVerdict
from src.report.plots import HATCHES, PANEL, Canvas, Plot, bars, mark_stages, panel

MOST_CLASSES = 24
"""At most this many classes are shown: those in which the regimes differ most."""
MOST_SETS = 6


class ShownCell(NamedTuple):
    """A cell that the page shows in detail. `title`: its values on the axes that vary; `why`: why it is shown."""

    verdict: CellVerdict
    title: str
    why: str


def representative(verdicts: Sequence[CellVerdict]) -> list[ShownCell]:
    """At most four cells of one contrast with the reason for each: extremes, median, smallest difference."""
    known = sorted((v for v in verdicts if v.difference is not None), key=lambda v: (v.difference or 0.0, v.cell))
    if not known:
        return []
    by_size = sorted(known, key=lambda v: abs(v.difference or 0.0))
    first, last = known[0], known[-1]
    better, worse = (last.a, last.b) if unit_of(first.metric).higher_is_better else (last.b, last.a)
    candidates = [(by_size[len(by_size) // 2], "median difference"), (by_size[0], "smallest difference")]
    if (last.difference or 0.0) > 0:
        candidates.insert(0, (last, f"largest difference in favour of {better}"))
    if (first.difference or 0.0) < 0:
        candidates.insert(0, (first, f"largest difference in favour of {worse}"))
    chosen: dict[str, ShownCell] = {}
    axes = varying_axes(verdicts)
    for verdict, why in candidates:
        title = ", ".join(f"{axis} {text}" for axis, text in zip(axes, level_texts(verdict, axes), strict=True))
        chosen.setdefault(verdict.cell, ShownCell(verdict, title or "the only cell", why))
    return list(chosen.values())


def cell_plots(
    shown: ShownCell, runs: Sequence[RunRecord], class_names: Sequence[str] | None, canvas: Canvas
) -> dict[str, Any]:
    """Curves and recall of one cell for the template; `runs` are all of its runs, in any order."""
    finished = sorted((run for run in runs if not run.diverged), key=lambda run: run.seed)
    of_regime = {name: own for name in canvas.styles if (own := [run for run in finished if run.regime == name])}
    return {
        "title": shown.title,
        "why": shown.why,
        "summary": f"{sentence(shown.verdict)}. {sentence_elsewhere(shown.verdict)}".rstrip(),
        "curves": _curves(shown, of_regime, canvas),
        "recall": _recall(shown, of_regime, class_names, canvas),
    }


class Band(NamedTuple):
    """Mean and standard deviation over seeds of a curve of one regime, over updates."""

    steps: Floats
    mean: Floats
    deviation: Floats


def histories(runs: Sequence[RunRecord]) -> dict[str, list[tuple[Floats, Floats]]]:
    """Curve name -> (steps, values) of every run that has a history.parquet."""
    import pyarrow.parquet as pq

    curves: dict[str, list[tuple[Floats, Floats]]] = {}
    for run in runs:
        path = run.path.parent / "history.parquet"
        if not path.exists():
            continue
        table = pq.ParquetFile(path).read(columns=["step", "name", "value"])
        names = np.array(table["name"].to_pylist(), dtype=object)
        steps, values = (table[column].to_numpy().astype(np.float64) for column in ("step", "value"))
        for name in dict.fromkeys(names):
            curves.setdefault(str(name), []).append((steps[names == name], values[names == name]))
    return curves


def band(curves: Sequence[tuple[Floats, Floats]]) -> Band:
    """Mean and standard deviation over seeds; curves are interpolated linearly and keep their last value."""
    steps = np.unique(np.concatenate([one for one, _ in curves]))
    values = np.stack([np.interp(steps, one, value) for one, value in curves])
    deviation = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(steps))
    return Band(steps, values.mean(axis=0), deviation)


def boundaries(runs: Sequence[RunRecord]) -> list[float]:
    """Updates at which the second and later stages start: the median over the runs with the most stages."""
    n_stages = max((run.n_stages for run in runs), default=0)
    ends = [np.cumsum([s["updates"] for s in run.result["stages"]])[:-1] for run in runs if run.n_stages == n_stages]
    return np.median(np.stack(ends), axis=0).tolist() if n_stages > 1 else []


def _curves(shown: ShownCell, of_regime: Mapping[str, Sequence[RunRecord]], canvas: Canvas) -> list[Plot]:
    styles = canvas.styles
    found = {name: histories(runs) for name, runs in of_regime.items()}
    names = [name for curves in found.values() for name in curves if name.startswith("val/")]
    what = "accuracy" if any(name.endswith("/accuracy") for name in names) else "loss"
    sets = sorted({name.split("/")[1] for name in names}, key=lambda s: (s == "union", s))
    if len(sets) > MOST_SETS:
        sets = [*sets[: MOST_SETS - 1], "union"]
    scale, unit = (100.0, "validation accuracy, %") if what == "accuracy" else (1.0, "validation loss")
    ends = {name: boundaries(runs) for name, runs in of_regime.items()}
    plots = []
    for chosen in sets:
        ax = panel(set_title(chosen), "updates", unit)
        last_values = []
        for name, curves in found.items():
            if not (points := curves.get(f"val/{chosen}/{what}")):
                continue
            one, style = band(points), styles[name]
            mean, spread = scale * one.mean, scale * one.deviation
            low, high = (np.clip(mean + sign * spread, 0, None if scale == 1 else scale) for sign in (-1, 1))
            ax.fill_between(one.steps, low, high, color=style.ink, alpha=0.16, linewidth=0)
            marker = style.marker if len(mean) <= 12 else ""
            ax.plot(one.steps, mean, **style.line, linewidth=1.7, marker=marker, markersize=3.5)
            last_values.append(f"{name} ends at {mean[-1]:{'.1f' if what == 'accuracy' else '.3g'}}")
        drawn: set[float] = set()  # a boundary that two regimes share is drawn once
        for name, steps in ends.items():
            for number, step in enumerate(steps, start=2):
                if step not in drawn:
                    mark_stages(ax, [step], styles[name].ink, first=number)
                    drawn.add(step)
        ax.set_xlim(left=0)
        alt = (
            f"{shown.title}: {unit} on the {set_title(chosen)} over updates, mean over seeds. {'; '.join(last_values)}."
        )
        plots.append(canvas.save(ax, f"curves-{shown.verdict.cell[:8]}-{chosen}", alt))
    return plots


def recalls(runs: Sequence[RunRecord]) -> dict[int, list[float]]:
    """Class -> recall on the union of every run that has it."""
    found: dict[int, list[float]] = {}
    for run in runs:
        for name in run.result["metrics"]:
            if name.startswith("test/union/recall/") and (value := run.metric(name)) is not None:
                found.setdefault(int(name.rsplit("/", 1)[1]), []).append(value)
    return found


def _recall(
    shown: ShownCell,
    of_regime: Mapping[str, Sequence[RunRecord]],
    class_names: Sequence[str] | None,
    canvas: Canvas,
) -> Plot | None:
    values = {name: of_class for name, runs in of_regime.items() if (of_class := recalls(runs))}
    if not values:
        return None
    classes = sorted({k for of_class in values.values() for k in of_class})
    spread = {k: np.ptp([np.mean(of_class[k]) for of_class in values.values() if k in of_class]) for k in classes}
    n_left_out = max(0, len(classes) - MOST_CLASSES)
    if n_left_out:
        classes = sorted(sorted(classes, key=lambda k: -spread[k])[:MOST_CLASSES])
    counts = next(iter(of_regime.values()))[0].result.get("class_counts") or []
    rest = f" ({n_left_out} classes with smaller differences left out)" if n_left_out else ""
    parts = " / ".join(f"D{i + 1}" for i in range(len(counts)))
    below = f"class, and its training samples in {parts}" if counts else "class"
    size = (max(PANEL[0], min(9.6, 1.2 + 0.2 * len(classes) * (1 + len(values)))), 3.3)
    ax = panel(f"recall of each class on the union{rest}", below, "recall, %", size=size)
    series = [(name, canvas.styles[name].ink, HATCHES[k % len(HATCHES)]) for k, name in enumerate(values)]
    bars(ax, series, [[[100 * v for v in own.get(k, ())] for k in classes] for own in values.values()], ends=(0, 100))
    ax.set_ylim(0, 104)
    ax.set_xticks(range(len(classes)), [_class_label(k, class_names, counts) for k in classes], fontsize=7)
    widest = max(classes, key=lambda k: spread[k])
    named = class_names[widest] if class_names and widest < len(class_names) else str(widest)
    means = ", ".join(f"{name} {100 * np.mean(own[widest]):.0f} %" for name, own in values.items() if widest in own)
    alt = f"{shown.title}: bars of recall by class. They differ most in class {named}: {means}."
    return canvas.save(ax, f"recall-{shown.verdict.cell[:8]}", alt)


def _class_label(k: int, names: Sequence[str] | None, counts: Sequence[Sequence[int]]) -> str:
    name = names[k] if names is not None and k < len(names) else str(k)
    name = name if len(name) <= 10 else f"{name[:9]}…"
    of_parts = [str(part[k]) for part in counts if k < len(part)]
    return f"{name}\n{'/'.join(of_parts)}" if of_parts else name
