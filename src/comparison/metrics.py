"""Metrics of a run: logged values, values derived from its stages and curves, and weighted sums of both."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from src.comparison.pairing import RunRecord
from src.errors import ConfigError

TERM = re.compile(r"\s*(?P<sign>[+-]?)\s*(?:(?P<factor>\d+(?:\.\d+)?)\s*\*\s*)?(?P<name>[A-Za-z_][\w/]*)\s*")


@functools.cache
def metric_terms(text: str) -> tuple[tuple[float, str], ...]:
    """The (factor, name) terms of a weighted sum of metrics; a slash is part of a name.

    Example: ``train/union/accuracy - 0.5 * test/union/accuracy``. Raises ConfigError for anything else.
    """
    terms: list[tuple[float, str]] = []
    position = 0
    while position < len(text) or not terms:
        match = TERM.match(text, position)
        if match is None or (terms and not match["sign"]):
            problem = "is no sum of metrics; write e.g. test/d2/accuracy - 0.5 * test/d1/accuracy"
            raise ConfigError("metric", text, problem)
        factor = float(match["factor"] or 1)
        terms.append((-factor if match["sign"] == "-" else factor, match["name"]))
        position = match.end()
    return tuple(terms)


def run_metric(run: RunRecord, name: str) -> float | None:
    """One metric of a run; None if undefined.

    Besides the metrics of result.json: ``converged``, the share of the run's stages that met their tolerance;
    ``lowest/CURVE`` and ``last/CURVE``, the minimum and the final value of a curve of the last stage
    (``last/val/d1/accuracy``), from history.parquet.
    """
    if name == "converged":
        converged = [stage["converged"] for stage in run.result["stages"] if stage["converged"] is not None]
        return sum(converged) / len(converged) if converged else None
    kind, _, curve = name.partition("/")
    if kind in ("lowest", "last"):
        values = _last_stage_curve(run.path.with_name("history.parquet"), curve)
        return None if not values else min(values) if kind == "lowest" else values[-1]
    return run.metric(name)


def _last_stage_curve(history: Path, name: str) -> list[float]:
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(history).read().to_pydict()
    last = max(rows["stage"], default=0)
    columns = zip(rows["stage"], rows["name"], rows["value"], strict=True)
    return [value for stage, curve, value in columns if stage == last and curve == name]
