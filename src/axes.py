"""The axes of a grid, each stated once: its name, the settings that it shows, its labels, its order and format."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

AxisValue = str | float | int


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A property of a cell that every result, table and MLflow run repeats under a short name."""

    settings: tuple[str, ...]
    """Keys of the settings whose value it shows; a group's choice is `GROUP.name`."""
    related: tuple[str, ...] = ()
    """Settings that differ without changing the axis unless something else differs too."""
    label: str
    """Axis title of a plot, with the unit."""
    heading: str = ""
    """Heading in a table on a narrow terminal, if it is not the name."""
    is_numeric: bool = False
    """Whether it is an MLflow metric as well as a param: MLflow sorts params as text (10 before 5)."""


AXES = {
    "ratio": Axis(
        settings=("split.ratio", "split.sizes"), related=("split.size",), label="ratio |D2| / |D1|", is_numeric=True
    ),
    "imbalance": Axis(
        settings=("split.imbalance",), label="class imbalance, n_max / n_min", heading="imb", is_numeric=True
    ),
    "shift": Axis(
        settings=("split.shift.kind", "split.shift.amount", "split.shift.source"), label="shift of Dataset 2"
    ),
    "epochs": Axis(
        settings=("stopping.epochs", "stopping.max_epochs"), label="epochs per stage", heading="ep", is_numeric=True
    ),
    "arch": Axis(settings=("arch.name", "arch.model"), label="architecture"),
    "data": Axis(settings=("data.name", "data.dataset"), label="data"),
    "tune": Axis(settings=("tune.name",), label="tuning"),
}
"""By name, in the order of tables. Names are MLflow params and keys of result.json; `tune` is one of tuned cells
alone."""

NUMERIC_AXES = tuple(name for name, axis in AXES.items() if axis.is_numeric)


@functools.cache
def axis_of(setting: str, *, related: bool = False) -> str | None:
    """The axis that shows a setting (or a group's choice: ``arch``), if there is one."""
    for name, axis in AXES.items():
        keys = axis.settings + axis.related if related else axis.settings
        if setting in keys or f"{setting}.name" in keys:
            return name
    return None


def axis_label(name: str) -> str:
    """The label of an axis on a plot; a setting without an axis of its own is labelled by its key."""
    return AXES[name].label if name in AXES else name


def axis_heading(name: str) -> str:
    """The heading of an axis in a table on a narrow terminal."""
    return AXES[name].heading or name if name in AXES else name


def axis_rank(name: str) -> int:
    """Sort key for names: the axes in their order, then every other setting."""
    return list(AXES).index(name) if name in AXES else len(AXES)


def axis_order(value: AxisValue) -> tuple[int, str, float]:
    """Sort key for the values of an axis that may mix numbers and words.

    "none" comes first, then numbers, then words: ``rotate:5`` before ``rotate:30``, lists by length, ``[32]`` before
    ``[128]``.
    """
    if isinstance(value, int | float):
        return (1, "", float(value))
    if value.startswith("["):
        length = value.count(",") + (value != "[]")
        return (2, f"[{length}{re.sub('[0-9]+', lambda number: number[0].zfill(9), value)}", 0.0)
    word, _, amount = value.partition(":")
    try:
        return (2, word, float(amount))
    except ValueError:
        return (0 if value == "none" else 2, value, 0.0)


def axis_text(value: AxisValue) -> str:
    """The value of an axis as tables and plots show it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(text: str) -> AxisValue:
    """Parses `text` as a number, if it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
