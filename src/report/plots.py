"""The look of the report's plots: line styles for colour-blind readers, small panels, PNG files next to the page.

Every plot becomes a PNG next to the page and an image inside it (SVG, or the PNG where SVG would be large), with a text
alternative. Panels are narrow, so that the page can arrange them side by side or, on a phone, one below the other.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.io import write_atomically

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (4.3, 3.0)
"""Width and height of a panel in inches; the page shows an inch as at most 96 pixels."""
PAPER = "paper"
"""The folder of a report for vector plots and LaTeX tables, if they are wanted."""
PNG_DPI = 120
TITLE_LETTERS, LEGEND_LETTERS = 10.5, 16.0
"""Letters that fit into an inch of a title, next to the labels of its axis, and of a legend."""
INKS = ("#b35806", "#542788", "#00735c", "#0072b2", "#a8327e", "#5c5c5c", "#8c6d00", "#1b1b1b")
"""The first two are the ends of the map's colours (orange for the regime named first); dark enough for white text."""
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)), (0, (8, 2)), (0, (2.5, 1.2)), "-", (0, (5, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")


@dataclass(frozen=True, kw_only=True, slots=True)
class LineStyle:
    """How one regime (or layer, or class) is drawn in every plot."""

    ink: str
    dash: object
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """Colour and dash as matplotlib's keyword arguments."""
        return {"color": self.ink, "linestyle": self.dash}


def line_styles(names: Sequence[str], *, first: int = 0) -> dict[str, LineStyle]:
    """A style for each name, starting with number `first`; styles repeat after the eighth.

    Regimes start at 0; layers, classes and levels of an axis at 2, so that no line is mistaken for a regime.
    """
    n = len(INKS)
    return {
        name: LineStyle(ink=INKS[k % n], dash=DASHES[(k - first + k // n) % n], marker=MARKERS[(k + k // n) % n])
        for k, name in enumerate(names, start=first)
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A plot on the page. `source`: a data URI; `width`: in CSS pixels; `file`: the PNG next to the page."""

    source: str
    alt: str
    width: int
    file: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plots:
    """The plots of a section, and a note for each that could not be drawn."""

    plots: tuple[Plot, ...]
    notes: tuple[str, ...]


def panel(title: str, x: str, y: str, *, size: tuple[float, float] = PANEL) -> Axes:
    """An empty panel with its title and the names of its axes, without the upper and right side of the frame."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    ax = figure.add_subplot()
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.tick_params(labelsize=8, length=3)
    ax.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.set_title(textwrap.fill(title, round(TITLE_LETTERS * size[0])), fontsize=9.5, loc="left")
    ax.set_xlabel(x, fontsize=8.5)
    ax.set_ylabel(y, fontsize=8.5)
    return ax


def bars(
    ax: Axes,
    series: Sequence[tuple[str, str, str]],
    values: Sequence[Sequence[Sequence[float]]],
    *,
    ends: tuple[float, float] = (-math.inf, math.inf),
) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Grouped bars with error bars of one standard deviation; returns the means of each series.

    `series`: (label, ink, hatch) of each; `values[series][group]`: the samples of a bar (none: no bar). No error bar
    leaves `ends`, the values that are possible.
    """
    width = 0.84 / max(1, len(series))
    means = []
    for number, ((name, ink, hatch), groups) in enumerate(zip(series, values, strict=True)):
        mean = np.array([np.mean(group) if len(group) else np.nan for group in groups])
        error = np.array([np.std(group, ddof=1) if len(group) > 1 else 0.0 for group in groups])
        x = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * width
        ax.bar(x, mean, width * 0.94, color=ink, edgecolor="white", linewidth=0.6, hatch=hatch, label=name)
        reach = np.stack([np.minimum(error, mean - ends[0]), np.minimum(error, ends[1] - mean)])
        ax.errorbar(x, mean, reach, fmt="none", ecolor="#222222", elinewidth=0.8, capsize=1.8)
        means.append(mean)
    return means


def legend_below(ax: Axes, handles: Sequence[Artist] = (), names: Sequence[str] = (), *, columns: int = 3) -> None:
    """A legend below the axes, where it covers nothing; of all labelled artists unless `handles` are given."""
    shown, tags = (handles, names) if handles else ax.get_legend_handles_labels()
    figure = ax.get_figure(root=True)
    assert figure is not None
    fitting = int(figure.get_figwidth() * LEGEND_LETTERS / (max(map(len, tags)) + 8))  # 8: the handle and the gap
    where: dict[str, Any] = {"loc": "outside lower center", "ncols": max(1, min(columns, len(tags), fitting))}
    figure.legend(list(shown), list(tags), fontsize=7.5, frameon=False, **where)


def mark_stages(ax: Axes, steps: Sequence[float], ink: str = "#333333", *, first: int = 2) -> None:
    """A labelled dotted vertical line at every update of `steps`, where stage `first` and the following ones start."""
    for number, step in enumerate(steps, start=first):
        ax.axvline(step, color=ink, linewidth=1.0, linestyle=(0, (2, 2)), alpha=0.9)
        text: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "va": "top"}
        ax.annotate(f"stage {number}", (step, 1.0), (2, -2), fontsize=7, color=ink, **text)
    ax.set_xlim(left=0)


def end_marker(ax: Axes, x: float, y: float, style: LineStyle) -> None:
    """A triangle at the right of a panel that marks where a line ends."""
    ax.plot([x], [y], marker="<", color=style.ink, markersize=5, clip_on=False)


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Where the plots of a report go, and how each regime is drawn in all of them."""

    folder: Path
    styles: Mapping[str, LineStyle]

    def save(self, ax: Axes, name: str, alt: str, *, caption: str = "") -> Plot:
        """Writes the plot; see `save_plot`."""
        return save_plot(ax, self.folder, name, alt, caption=caption)


def save_plot(
    plot: Axes | Figure, folder: Path, name: str, alt: str, *, caption: str = "", vector: bool = True
) -> Plot:
    """Writes ``NAME.png`` into `folder`, and PDF and SVG into its `PAPER` folder if any; returns the plot."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = plot if isinstance(plot, Figure) else plot.get_figure(root=True)
    assert figure is not None
    file = f"{name.replace('/', '_')}.png"
    if (engine := figure.get_layout_engine()) is not None:  # it would draw the whole figure once more in every format
        figure.set_dpi(PNG_DPI)
        engine.execute(figure)
        figure.set_layout_engine(None)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    write_atomically(folder / file, png.getvalue())
    kind, content = "image/png", png.getvalue()
    paper = folder / PAPER
    if vector or paper.is_dir():
        svg = io.BytesIO()
        with rc_context({"svg.fonttype": "path", "svg.hashsalt": "report"}):  # the same file on every machine
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    if vector:
        kind, content = "image/svg+xml", svg.getvalue()
    if paper.is_dir():
        (paper / file).with_suffix(".svg").write_bytes(svg.getvalue())
        figure.savefig((paper / file).with_suffix(".pdf"), metadata={"CreationDate": None})
    source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return Plot(source=source, alt=alt, width=round(figure.get_size_inches()[0] * 96), file=file, caption=caption)
