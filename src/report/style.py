"""How the report's pictures look: colours that the colour-blind tell apart, a dash and a marker for each, small panels.

Every picture becomes a PNG beside the page and an image inside it (SVG, or the PNG where a vector would be large), with a
text for those who do not see it. The panels are narrow, so that the page can put them side by side or, on a phone, one
under the other.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.io import write_atomically

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (4.3, 3.0)
"""Width and height of a panel in inches; on the page an inch is at most 96 pixels wide."""
PNG_DPI = 120
INKS = ("#b35806", "#542788", "#00735c", "#0072b2", "#a8327e", "#5c5c5c", "#8c6d00", "#1b1b1b")
"""The first two are those of the map's ends (orange for the regime named first); dark enough for text on white."""
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)), (0, (8, 2)), (0, (2.5, 1.2)), "-", (0, (5, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How one regime (or layer, or class) is drawn, everywhere alike."""

    ink: str
    dash: object
    marker: str

    @property
    def css_border(self) -> str:
        """The nearest border style for a swatch in the page."""
        return "solid" if self.dash == "-" else "dashed"


def looks(names: Sequence[str], *, first: int = 0) -> dict[str, Look]:
    """A look for each name, from the `first` on; past the eighth they come again.

    Regimes take them from 0; layers, classes and levels of an axis from 2, so that no line is mistaken for a regime.
    """
    n = len(INKS)
    return {
        name: Look(ink=INKS[k % n], dash=DASHES[(k - first + k // n) % n], marker=MARKERS[(k + k // n) % n])
        for k, name in enumerate(names, start=first)
    }


def legend_below(figure: Figure, handles: Sequence[Artist], names: Sequence[str], *, columns: int = 3) -> None:
    """A legend under the axes, where it hides nothing."""
    figure.legend(
        list(handles),
        list(names),
        loc="outside lower center",
        ncols=min(columns, len(names)),
        fontsize=7.5,
        frameon=False,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture on the page. `source`: a data URI; `width`: its natural width in CSS pixels; `file`: the PNG beside."""

    source: str
    alt: str
    width: int
    file: str
    caption: str = ""


def panel(*, size: tuple[float, float] = PANEL) -> tuple[Figure, Axes]:
    """An empty panel without the frame's upper and right side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.tick_params(labelsize=8, length=3)
    ax.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    ax.set_axisbelow(True)
    return figure, ax


def label(ax: Axes, title: str, x: str, y: str) -> None:
    """Title and names of both axes."""
    ax.set_title(title, fontsize=9.5, loc="left")
    ax.set_xlabel(x, fontsize=8.5)
    ax.set_ylabel(y, fontsize=8.5)


def mark_stages(ax: Axes, steps: Sequence[float], ink: str = "#333333", *, first: int = 2) -> None:
    """An upright dotted line with its name at every update of `steps`, where stage `first` and those after it begin."""
    for number, step in enumerate(steps, start=first):
        ax.axvline(step, color=ink, linewidth=1.0, linestyle=(0, (2, 2)), alpha=0.9)
        ax.annotate(
            f"stage {number}",
            (step, 1.0),
            (2, -2),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            fontsize=7,
            color=ink,
            va="top",
        )
    ax.set_xlim(left=0)


@contextmanager
def _plain_svg() -> Iterator[None]:
    """SVG with letters as outlines (the same everywhere) and without what differs from one time to the next."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "report"}):
        yield


def picture(figure: Figure, folder: Path, name: str, alt: str, *, caption: str = "", vector: bool = True) -> Picture:
    """Writes ``NAME.png`` into `folder` and returns what the page shows."""
    file = f"{name.replace('/', '_')}.png"
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    write_atomically(folder / file, png.getvalue())
    figure.set_layout_engine("none")  # it is laid out: drawing it again need not do that again
    kind, content = "image/png", png.getvalue()
    if vector:
        svg = io.BytesIO()
        with _plain_svg():
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        kind, content = "image/svg+xml", svg.getvalue()
    source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return Picture(source=source, alt=alt, width=round(figure.get_size_inches()[0] * 96), file=file, caption=caption)
