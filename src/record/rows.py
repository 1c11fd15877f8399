"""Reads a table of finished runs: one row a run, with its regime, seed, axes, metrics and costs."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from src.axes import NUMERIC_AXES, AxisValue, number
from src.comparison.units import ERROR_RATES, RATES, UNSCALED
from src.errors import ConfigError, foreign_file

COSTS = ("updates", "samples", "flops", "seconds")
NEEDED = ("regime", "seed")
KINDS = sorted((RATES | ERROR_RATES | UNSCALED) - {"forgetting"})
SETS = re.compile(r"d[1-9]\d*|union|old|new")
SHARES = RATES | {"error", "ece"}
"""Metrics between 0 and 1."""
MAX_TEXT = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedRun:
    """One row. `line`: its number in the file; a metric is None where the row has no value."""

    line: int
    regime: str
    seed: int
    axes: Mapping[str, AxisValue]
    metrics: Mapping[str, float | None]
    costs: Mapping[str, float]
    diverged: bool

    @property
    def address(self) -> tuple[tuple[tuple[str, AxisValue], ...], str, int]:
        """Cell, regime and seed."""
        return (tuple(sorted(self.axes.items())), self.regime, self.seed)


def read_runs(file: Path) -> list[RecordedRun]:
    """The runs of a CSV file, separated by commas, semicolons or tabs. Raises ConfigError, which names the line."""
    with foreign_file("csv", str(file), file, "give a CSV file in UTF-8, with a row of headings"):
        text = file.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        reader = csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count), strict=True)
        lines = [(reader.line_num, [word.strip() for word in row]) for row in reader if any(map(str.strip, row))]
    with _at(file):
        if len(lines) < 2:
            raise ValueError("has no rows; give a row of headings, and one row for each run")
        (_, heads), *rows = lines
        metrics = _columns(heads)
    runs: dict[object, RecordedRun] = {}
    for line, row in rows:
        with _at(file, f"line {line}: "):
            if len(row) != len(heads):
                fix = "quote values with commas"
                raise ValueError(f"has {len(row)} values, the headings are {len(heads)}; {fix}")
            run = _run(line, dict(zip(heads, row, strict=True)), metrics)
            if run.address in runs:
                earlier = runs[run.address].line
                fix = "number its runs, or add an axis"
                raise ValueError(f"{run.regime} has seed {run.seed} on line {earlier} already; {fix}")
        runs[run.address] = run
    found = list(runs.values())
    with _at(file):
        _require_pairs(found)
    return found


@contextmanager
def _at(file: Path, where: str = "") -> Iterator[None]:
    """Reports a ValueError as one of the file; `where`: in which line."""
    try:
        yield
    except ValueError as error:
        raise ConfigError("csv", str(file), f"{where}{error}") from error


def _columns(heads: Sequence[str]) -> dict[str, str]:
    """Heading -> name of the metric in that column. Raises ValueError."""
    for head in heads:
        if heads.count(head) > 1:
            raise ValueError(f"has {heads.count(head)} columns {head!r}; give each column a name of its own")
    for name in NEEDED:
        if name not in heads:
            raise ValueError(f"has no column {name}; its columns are {', '.join(heads)}")
    metrics: dict[str, str] = {}
    for head in heads:
        metric = None if head in (*NEEDED, *COSTS) else metric_name(head)
        if metric in metrics.values():
            raise ValueError(f"column {head!r}: is the metric {metric} a second time; leave one out")
        if metric is not None:
            metrics[head] = metric
    if not any(name.startswith("test/union/") for name in metrics.values()):
        fix = "add a column such as union/accuracy or union/wer"
        raise ValueError(f"has no metric on the union of the test sets; {fix}")
    return metrics


def metric_name(head: str) -> str | None:
    """The metric of a column: ``union/mAP``, or ``accuracy`` for the union; None for an axis. Raises ValueError."""
    parts = head.removeprefix("test/").split("/")
    kind = parts[-1].lower()
    is_known = kind in KINDS or kind.endswith(("_loss", "_score"))
    if len(parts) == 1:
        return head if head == "forgetting" else f"test/union/{head}" if is_known else None
    if len(parts) != 2 or not SETS.fullmatch(parts[0]):
        raise ValueError(f"column {head!r}: is no SET/METRIC; SET is d1, d2, ..., union, old or new")
    if not is_known:
        fix = "or call it NAME_loss (lower is better) or NAME_score (higher is better)"
        raise ValueError(f"column {head!r}: unknown metric; known: {', '.join(KINDS)}; {fix}")
    return f"test/{head.removeprefix('test/')}"


def _run(line: int, row: Mapping[str, str], metrics: Mapping[str, str]) -> RecordedRun:
    if not row["regime"] or len(row["regime"]) > MAX_TEXT:
        raise ValueError("has no regime, or a very long one; name the way of training, e.g. sequential")
    if not re.fullmatch(r"\d{1,9}", row["seed"]):
        raise ValueError(f"seed {row['seed']!r} is no whole number; number the repetitions: 0, 1, 2, ...")
    axes: dict[str, AxisValue] = {}
    for name in row.keys() - metrics.keys() - {*NEEDED, *COSTS}:
        axes[name] = number(row[name])
        if row[name] == "" or len(row[name]) > MAX_TEXT or axes[name] != axes[name]:
            raise ValueError(f"{name} has no value, or a very long one; write - where it does not apply")
        if name in NUMERIC_AXES[:2] and isinstance(axes[name], str):
            raise ValueError(f"{name} is {row[name]!r}, not a number; e.g. 0.5")
    values = {name: metric_value(head, row[head], name) for head, name in metrics.items()}
    if all(value is None for value in values.values()):
        raise ValueError("has no metric; write nan for a run that diverged, or leave the row out")
    diverged = any(value is not None and not math.isfinite(value) for value in values.values())
    costs = {name: cost for name in COSTS if (cost := metric_value(name, row.get(name, ""), name)) is not None}
    if any(not 0 <= cost < math.inf for cost in costs.values()):
        raise ValueError(f"a cost of {min(costs.values()):g} cannot be; give {', '.join(costs)} as positive numbers")
    return RecordedRun(
        line=line,
        regime=row["regime"],
        seed=int(row["seed"]),
        axes=dict(sorted(axes.items())),
        metrics=dict.fromkeys(values) if diverged else values,
        costs=costs,
        diverged=diverged,
    )


def metric_value(head: str, text: str, name: str) -> float | None:
    """A number of a row; None if the field is empty."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        fix = "write a point for decimals and no unit, e.g. 0.873"
        raise ValueError(f"{head} is {text!r}, not a number; {fix}") from error
    if name.rpartition("/")[2].lower() in SHARES and math.isfinite(value) and not 0 <= value <= 1:
        raise ValueError(f"{head} is {text}, not a share between 0 and 1; divide percent by 100")
    return value


def _require_pairs(runs: Sequence[RecordedRun]) -> None:
    """Raises ValueError for several regimes that share a seed in no cell: nothing could be compared."""
    seen: dict[object, set[str]] = {}
    for run in runs:
        cell, _, seed = run.address
        seen.setdefault((cell, seed), set()).add(run.regime)
    regimes = {run.regime for run in runs}
    if len(regimes) < 2 or any(len(sharing) > 1 for sharing in seen.values()):
        return
    many = [name for name in runs[0].axes if len({run.axes[name] for run in runs}) == len(runs) > 2]
    if many:
        problem = f"column {many[0]!r} differs in every row; a metric is written SET/METRIC, e.g. union/{many[0]}"
    else:
        problem = (
            f"no two of {', '.join(sorted(regimes))} share a seed in a cell; give paired runs the same seed and axes"
        )
    raise ValueError(problem)
