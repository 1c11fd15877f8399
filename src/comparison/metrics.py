"""What a statement may be about: the metrics of a run, what follows from its stages and curves, and sums of those."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from src.comparison.pairing import RunRecord
from src.errors import ConfigError

TERM = re.compile(r"\s*(?P<sign>[+-]?)\s*(?:(?P<factor>\d+(?:\.\d+)?)\s*\*\s*)?(?P<name>[A-Za-z_][\w/]*)\s*")


@dataclass(frozen=True, slots=True)
class Metric:
    """A weighted sum of metrics: (factor, name) each."""

    terms: tuple[tuple[float, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.terms)


@functools.cache
def parse_metric(text: str) -> Metric:
    """``train/union/accuracy - 0.5 * test/union/accuracy``: names with signs and factors; a slash is part of a name.

    Raises ConfigError for anything else.
    """
    terms: list[tuple[float, str]] = []
    place = 0
    while place < len(text) or not terms:
        match = TERM.match(text, place)
        if match is None or (terms and not match["sign"]):
            raise ConfigError(
                "metric", text, "is no sum of metrics; write e.g. test/d2/accuracy - 0.5 * test/d1/accuracy"
            )
        factor = float(match["factor"] or 1)
        terms.append((-factor if match["sign"] == "-" else factor, match["name"]))
        place = match.end()
    return Metric(tuple(terms))


def run_metric(run: RunRecord, name: str) -> float | None:
    """One metric of a run; None where it is undefined.

    Those of result.json; ``converged``: share of its stages that met their tolerance; ``lowest/NAME``, ``last/NAME``:
    the least and the last value of a curve (``val/d1/accuracy``) in the last stage, from history.parquet.
    """
    if name == "converged":
        asked = [stage["converged"] for stage in run.result["stages"] if stage["converged"] is not None]
        return sum(asked) / len(asked) if asked else None
    kind, _, curve = name.partition("/")
    if kind in ("lowest", "last"):
        values = _curve(run.path.with_name("history.parquet"), curve)
        return None if not values else min(values) if kind == "lowest" else values[-1]
    return run.metric(name)


def _curve(history: Path, name: str) -> list[float]:
    """The values of a curve in the last stage."""
    import pyarrow.parquet as pq

    rows = pq.read_table(history).to_pydict()
    last = max(rows["stage"], default=0)
    columns = zip(rows["stage"], rows["name"], rows["value"], strict=True)
    return [value for stage, of, value in columns if stage == last and of == name]
