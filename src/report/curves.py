"""The pictures of a few telling cells: validation curves across stages, and recall class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.comparison.pairing import RunRecord
from src.comparison.tables import axis_text, coordinate, varying_axes
from src.comparison.units import unit_of
from src.comparison.verdicts import CellVerdict, sentence
from src.report.style import PANEL, Look, Picture, label, mark_stages, panel, picture

Floats = NDArray[np.float64]
MOST_CLASSES = 24
"""Classes that get bars of their own: beyond, those in which the regimes differ most."""
MOST_SETS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class CellPictures:
    """One cell as the reader may pick it. `why`: what makes it telling; `said`: its verdict as a sentence."""

    cell: str
    title: str
    why: str
    said: str
    curves: tuple[Picture, ...]
    recall: Picture | None


def telling(verdicts: Sequence[CellVerdict]) -> list[tuple[CellVerdict, str]]:
    """At most four cells of one contrast, each with what makes it telling: both extremes, the middle, the closest tie."""
    known = sorted((v for v in verdicts if v.difference is not None), key=lambda v: (v.difference or 0.0, v.cell))
    if not known:
        return []
    size = sorted(known, key=lambda v: abs(v.difference or 0.0))
    first, last = known[0], known[-1]
    higher = unit_of(first.metric).higher_is_better
    asked = [
        (first, f"furthest in favour of {first.b if higher else first.a}"),
        (last, f"furthest in favour of {last.a if higher else last.b}"),
        (size[len(size) // 2], "median difference"),
        (size[0], "smallest difference"),
    ]
    chosen: dict[str, tuple[CellVerdict, str]] = {}
    for verdict, why in asked:
        in_favour = "in favour" in why
        losing = in_favour and (verdict.difference or 0.0) * (-1 if verdict is first else 1) <= 0
        if not losing:
            chosen.setdefault(verdict.cell, (verdict, why))
    return list(chosen.values()) or [(first, "the only kind there is")]


def cell_title(verdict: CellVerdict, verdicts: Sequence[CellVerdict]) -> str:
    """Where a cell lies on the axes that vary."""
    axes = varying_axes(verdicts)
    return ", ".join(f"{axis} {axis_text(coordinate(verdict, axis))}" for axis in axes) or "the only cell"


def cell_pictures(
    verdict: CellVerdict,
    why: str,
    title: str,
    runs: Sequence[RunRecord],
    styles: Mapping[str, Look],
    class_names: Sequence[str] | None,
    folder: Path,
) -> CellPictures:
    """Curves and bars of one cell; `runs` are all of its runs, in any order."""
    of_regime = {name: [run for run in runs if run.regime == name and not run.diverged] for name in styles}
    of_regime = {name: sorted(some, key=lambda run: run.seed) for name, some in of_regime.items() if some}
    return CellPictures(
        cell=verdict.cell,
        title=title,
        why=why,
        said=sentence(verdict),
        curves=tuple(_curves(verdict.cell, title, of_regime, styles, folder)),
        recall=_recall(verdict.cell, title, of_regime, styles, class_names, folder),
    )


# ------------------------------------------------------------------------------------------------ curves


@dataclass(frozen=True, eq=False, slots=True)
class Band:
    """Mean and standard deviation over seeds of one curve of one regime, on the axis of updates."""

    steps: Floats
    mean: Floats
    deviation: Floats
    n_seeds: int


def histories(runs: Sequence[RunRecord], wanted: Sequence[str] = ()) -> dict[str, list[tuple[Floats, Floats]]]:
    """For each curve's name its (steps, values), one of each run that has a history.parquet."""
    import pyarrow.parquet as pq

    curves: dict[str, list[tuple[Floats, Floats]]] = {}
    for run in runs:
        path = run.path.parent / "history.parquet"
        if not path.exists():
            continue
        table = pq.read_table(path, columns=["step", "name", "value"])
        names = np.array(table["name"].to_pylist(), dtype=object)
        steps = table["step"].to_numpy().astype(np.float64)
        values = table["value"].to_numpy().astype(np.float64)
        for name in dict.fromkeys(names):
            if not wanted or name in wanted:
                curves.setdefault(str(name), []).append((steps[names == name], values[names == name]))
    return curves


def band(curves: Sequence[tuple[Floats, Floats]]) -> Band:
    """Mean and spread over seeds; between its points a curve is a straight line, after its end it keeps its last value."""
    steps = np.unique(np.concatenate([one for one, _ in curves]))
    values = np.stack([np.interp(steps, one, value) for one, value in curves])
    deviation = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(steps))
    return Band(steps, values.mean(axis=0), deviation, len(curves))


def boundaries(runs: Sequence[RunRecord]) -> list[float]:
    """Updates at which a stage ends and another begins: the median over runs of equally many stages."""
    if not runs:
        return []
    n_stages = max(run.n_stages for run in runs)
    ends = [np.cumsum([s["updates"] for s in run.result["stages"]])[:-1] for run in runs if run.n_stages == n_stages]
    return [float(value) for value in np.median(np.stack(ends), axis=0)] if n_stages > 1 else []


def _curves(
    cell: str,
    title: str,
    of_regime: Mapping[str, Sequence[RunRecord]],
    styles: Mapping[str, Look],
    folder: Path,
) -> list[Picture]:
    found = {name: histories(runs) for name, runs in of_regime.items()}
    names = [name for curves in found.values() for name in curves if name.startswith("val/")]
    what = "accuracy" if any(name.endswith("/accuracy") for name in names) else "loss"
    sets = sorted({name.split("/")[1] for name in names}, key=lambda s: (s == "union", s))
    if len(sets) > MOST_SETS:
        sets = [*sets[: MOST_SETS - 1], "union"]
    scale, unit = (100.0, "validation accuracy, %") if what == "accuracy" else (1.0, "validation loss")
    ends = {name: boundaries(runs) for name, runs in of_regime.items()}
    pictures = []
    for chosen in sets:
        figure, ax = panel()
        said = []
        for name, curves in found.items():
            points = curves.get(f"val/{chosen}/{what}")
            if not points:
                continue
            one, style = band(points), styles[name]
            mean, spread = scale * one.mean, scale * one.deviation
            ax.fill_between(one.steps, mean - spread, mean + spread, color=style.ink, alpha=0.16, linewidth=0)
            marker = style.marker if len(mean) <= 12 else ""
            ax.plot(
                one.steps, mean, color=style.ink, linestyle=style.dash, linewidth=1.7, marker=marker, markersize=3.5
            )
            said.append(f"{name} ends at {mean[-1]:.1f}" if what == "accuracy" else f"{name} ends at {mean[-1]:.3g}")
        drawn: set[float] = set()
        for name, steps in ends.items():  # a line that two regimes share is drawn once
            for number, step in enumerate(steps, start=2):
                if step not in drawn:
                    mark_stages(ax, [step], styles[name].ink, first=number)
                    drawn.add(step)
        ax.set_xlim(left=0)
        where = "union of the data sets" if chosen == "union" else f"Dataset {chosen[1:]}"
        label(ax, where, "updates", unit)
        alt = f"{title}: {unit} on the {where} over updates, mean over seeds. " + "; ".join(said) + "."
        pictures.append(picture(figure, folder, f"curves-{cell[:8]}-{chosen}", alt))
    return pictures


# ------------------------------------------------------------------------------------------------ recall


def recalls(runs: Sequence[RunRecord]) -> dict[int, list[float]]:
    """Recall on the union of every class, one number a run that has it."""
    found: dict[int, list[float]] = {}
    for run in runs:
        for name in run.result["metrics"]:
            if name.startswith("test/union/recall/") and (value := run.metric(name)) is not None:
                found.setdefault(int(name.rsplit("/", 1)[1]), []).append(value)
    return dict(sorted(found.items()))


def _recall(
    cell: str,
    title: str,
    of_regime: Mapping[str, Sequence[RunRecord]],
    styles: Mapping[str, Look],
    class_names: Sequence[str] | None,
    folder: Path,
) -> Picture | None:
    values = {name: recalls(runs) for name, runs in of_regime.items()}
    values = {name: of_class for name, of_class in values.items() if of_class}
    if not values:
        return None
    classes = sorted({k for of_class in values.values() for k in of_class})
    spread = {k: np.ptp([np.mean(of_class[k]) for of_class in values.values() if k in of_class]) for k in classes}
    n_left_out = max(0, len(classes) - MOST_CLASSES)
    if n_left_out:
        classes = sorted(sorted(classes, key=lambda k: -spread[k])[:MOST_CLASSES])
    counts = next(iter(of_regime.values()))[0].result.get("class_counts") or []
    figure, ax = panel(size=(max(PANEL[0], min(9.6, 1.2 + 0.2 * len(classes) * (1 + len(values)))), 3.3))
    width = 0.84 / len(values)
    for number, (name, of_class) in enumerate(values.items()):
        x = np.array([i for i, k in enumerate(classes) if k in of_class]) + (number - (len(values) - 1) / 2) * width
        mean = np.array([100 * np.mean(of_class[k]) for k in classes if k in of_class])
        error = np.array(
            [100 * np.std(of_class[k], ddof=1) if len(of_class[k]) > 1 else 0.0 for k in classes if k in of_class]
        )
        ax.bar(
            x,
            mean,
            width * 0.94,
            color=styles[name].ink,
            edgecolor="white",
            linewidth=0.6,
            hatch=("", "////", "....", "xxxx", "\\\\\\\\")[number % 5],
        )
        ax.errorbar(x, mean, error, fmt="none", ecolor="#222222", elinewidth=0.8, capsize=1.8)
    ax.set_ylim(0, 104)
    labels = [_class_label(k, class_names, counts) for k in classes]
    ax.set_xticks(range(len(classes)), labels, fontsize=7)
    rest = f" ({n_left_out} classes with smaller differences left out)" if n_left_out else ""
    below = "class" + (
        ", and its training samples in " + " / ".join(f"D{i + 1}" for i in range(len(counts))) if counts else ""
    )
    label(ax, f"recall of each class on the union{rest}", below, "recall, %")
    widest = max(classes, key=lambda k: spread[k])
    named = class_names[widest] if class_names and widest < len(class_names) else str(widest)
    means = ", ".join(
        f"{name} {100 * np.mean(of_class[widest]):.0f} %" for name, of_class in values.items() if widest in of_class
    )
    return picture(
        figure,
        folder,
        f"recall-{cell[:8]}",
        f"{title}: bars of recall by class. They differ most in class {named}: {means}.",
    )


def _class_label(k: int, names: Sequence[str] | None, counts: Sequence[Sequence[int]]) -> str:
    name = names[k] if names is not None and k < len(names) else str(k)
    name = name if len(name) <= 10 else f"{name[:9]}…"
    of_parts = [str(part[k]) for part in counts if k < len(part)]
    return f"{name}\n{'/'.join(of_parts)}" if of_parts else name
