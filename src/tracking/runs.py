"""Reads the folder of a run, a cell or a sweep as the record of its MLflow run.

A run's folder holds result.json (or failed.json), history.parquet and config.yaml; a cell's folder holds cell.json, a
sweep's summary.json (see `reports`). Every level of MLflow can therefore be rebuilt from disk.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from src.axes import NUMERIC_AXES, axis_text
from src.config.serialize import read_settings
from src.io import inside, read_json
from src.tracking.params import run_params
from src.tracking.record import (
    MAX_TAG,
    Input,
    Key,
    MetricPoint,
    Record,
    Status,
    clean_name,
    flatten,
    mask,
    run_name,
)
from src.tracking.views import COLOUR, colour_of, saved_views

Body = Mapping[str, Any]
"""The content of a JSON file."""

DAMAGED = (ValueError, KeyError, TypeError, OSError)
"""What `record_of` raises for a missing or damaged folder (OSError: pyarrow's error for a damaged file)."""


def has_record(folder: Path) -> bool:
    """Whether the folder holds a file that `record_of` reads."""
    return any((folder / name).exists() for name in READERS)


def record_of(folder: Path) -> Record:
    """The record of the folder of a run, a cell or a sweep; raises one of DAMAGED if there is none."""
    for name, read in READERS.items():
        if (folder / name).exists():
            try:
                return read(folder, read_json(folder / name))
            except (ValueError, KeyError, TypeError) as error:
                problem = f"{folder / name} is damaged ({type(error).__name__}: {error}); repeat the sweep's command"
                raise ValueError(problem) from error
    raise FileNotFoundError(f"{folder} holds none of {', '.join(READERS)}")


@dataclass(frozen=True)
class _Span:
    """The time of a run in milliseconds since the epoch, spread evenly over its updates."""

    start: int
    end: int
    n_updates: int = 0

    @classmethod
    def of(cls, provenance: Body, n_updates: int = 0, *, otherwise: int = 0) -> _Span:
        """From the recorded end and seconds; `otherwise` is the end if none is recorded."""
        end = _milliseconds(provenance["finished_at"]) if provenance.get("finished_at") else otherwise
        return cls(end - max(1, round(1000 * provenance.get("seconds", 0))), end, n_updates)

    def at(self, step: int) -> int:
        """The time of an update; the last millisecond belongs to the final metrics."""
        last = self.end - 1
        return min(self.start + (last - self.start) * step // max(1, self.n_updates), last)


def _finished_run(folder: Path, body: Body) -> Record:
    result, provenance = body["result"], body["provenance"]
    stages = result["stages"]
    span = _Span.of(provenance, int(result["cost"].get("updates", 0)))
    curves = _curves(folder / "history.parquet", span) + _stage_curve(stages, span)
    if "average_accuracy" in result["metrics"]:
        curves += _accuracy_matrix(result, span)
    curve_names = {point.name for point in curves}

    cost = {
        **result["cost"],
        **{name: provenance[name] for name in ("seconds", "reused_samples") if name in provenance},
    }
    metrics = dict(result["metrics"]) | {f"cost/{name}": value for name, value in cost.items()}
    metrics |= {"realised_imbalance": result["imbalance"]} if "imbalance" in result else {}
    finals = {clean_name(name): value for name, value in metrics.items() if value is not None}
    final_points = [
        # The curve ends in the mean loss of a batch, so the value over the whole set gets a name of its own.
        MetricPoint(f"{name}/final" if name in curve_names else name, value, span.end, span.n_updates)
        for name, value in finals.items()
    ]
    tags = {
        "diverged": "true" if body["status"] == "diverged" else "",
        "undefined": ", ".join(sorted(name for name, value in metrics.items() if value is None)),
        "converged": "false" if any(stage["converged"] is False for stage in stages) else "",
    }
    tags = {name: text for name, text in tags.items() if text}
    tags |= {"stopped_by": ", ".join(stage["stopped_by"] for stage in stages)} if stages else {}
    tags |= {name: str(result[name]) for name in ("weights", "stream") if name in result}
    tags["engine"] = str(provenance["engine"])
    run = _run(folder, body, "FINISHED", span, tags)
    points = (*curves, *final_points, *_axis_points(body["axes"], span.end))
    return replace(run, points=points)


def _failed_run(folder: Path, body: Body) -> Record:
    span = _Span.of(body.get("provenance") or {}, otherwise=round(1000 * (folder / "failed.json").stat().st_mtime))
    error = mask(str(body["error"]))
    tags = {"error": error, "attempts": str(body["attempts"]), "mlflow.note.content": f"**Failed:** {error}"}
    run = _run(folder, body, "FAILED", span, tags)
    artifacts = {**run.artifacts, "traceback.txt": mask(str(body["traceback"])).encode()}
    return replace(run, points=_axis_points(body["axes"], span.end), artifacts=artifacts)


def _run(folder: Path, body: Body, status: Status, span: _Span, tags: Mapping[str, str]) -> Record:
    """What the records of finished and of failed runs share."""
    key = Key("run", body["sweep"], body["cell"], body["run"])
    provenance = body.get("provenance") or {}
    common = {"regime": str(body["regime"]), COLOUR: colour_of(str(body["regime"]))}
    if commit := provenance.get("git_commit"):
        common["mlflow.source.git.commit"] = str(commit)
    common |= {f"version.{name}": str(version) for name, version in (provenance.get("versions") or {}).items()}
    axes = _axis_params(body["axes"]) | {"seed": str(body["seed"]), "regime": str(body["regime"])}
    axes |= flatten({"knob": body["knobs"]}) if body.get("knobs") else {}
    file = inside(folder, "config.yaml")
    text = file.read_text() if file.exists() else ""
    try:
        config = read_settings(text)
    except ValueError as error:
        fix = f"delete {folder}, and repeat the sweep's command"
        raise OSError(f"{folder / 'config.yaml'} is damaged ({' '.join(str(error).split())}); {fix}") from error
    return Record(
        key=key,
        name=run_name(body["axes"], regime=body["regime"], seed=body["seed"]),
        status=status,
        start=span.start,
        end=span.end,
        tags={**common, **tags},
        params=run_params(config, axes),
        inputs=_inputs(body, config) if "result" in body else (),
        artifacts={"config.yaml": mask(text).encode()} if text else {},
        parent=_pending_cell(key, body["axes"], span.start),
    )


def _curves(path: Path, span: _Span) -> list[MetricPoint]:
    """history.parquet as points over updates; a loss that is not finite is NaN, which MLflow can draw."""
    if not path.exists():
        return []
    from pyarrow import parquet

    # read_table opens a data set; threads cost more than the whole of so small a file
    file = parquet.ParquetFile(path, pre_buffer=False)
    table = file.read(columns=["step", "name", "value"], use_threads=False).to_pydict()
    points: dict[tuple[str, int], MetricPoint] = {}
    for step, raw_name, value in zip(table["step"], table["name"], table["value"], strict=True):
        name = clean_name(raw_name)
        points[name, step] = MetricPoint(name, value if math.isfinite(value) else math.nan, span.at(step), step)
    return list(points.values())


def _stage_curve(stages: Sequence[Body], span: _Span) -> list[MetricPoint]:
    """The curve `stage`: the number of the stage, from 1, at its first and its last update."""
    points, done = [], 0
    for index, stage in enumerate(stages, start=1):
        first, last = done + 1, done + int(stage["updates"])
        steps = dict.fromkeys((min(first, last), last))
        points += [MetricPoint("stage", float(index), span.at(step), step) for step in steps]
        done = last
    return points


def _accuracy_matrix(result: Body, span: _Span) -> list[MetricPoint]:
    """R[i, j] of more than two data sets: curves ``R/d1``, ``R/d2``, ... of test accuracy after each stage."""
    steps = accumulate(int(stage["updates"]) for stage in result["stages"])
    return [
        MetricPoint(f"R/d{part}", float(value), span.at(step), step)
        for step, row in zip(steps, result["accuracy_matrix"], strict=False)  # a diverged run lacks rows
        for part, value in enumerate(row, start=1)
        if value is not None
    ]


def _inputs(body: Body, config: Body) -> tuple[Input, ...]:
    """One data set for each part of the stream, with its size and class counts."""
    result, data = body["result"], str(body["axes"].get("data", "data"))
    recipe = flatten({group: config[group] for group in ("data", "split") if group in config})
    return tuple(
        Input(
            name=f"{data}-d{part}",
            digest=hashlib.sha256(f"{result['stream']}/d{part}".encode()).hexdigest()[:16],
            source=json.dumps({**recipe, "seed": body["seed"], "part": f"d{part}"}),
            schema=json.dumps({"n_classes": len(counts)}),
            profile=json.dumps({"num_rows": sum(counts), "class_counts": counts}),
            context=f"d{part}",
        )
        for part, counts in enumerate(result.get("class_counts", ()), start=1)
    )


def _pending_cell(run: Key, axes: Body, start: int) -> Record:
    """The cell of a run before its verdict."""
    parent = _pending_sweep(run.sweep, start)
    key, params, points = Key("cell", run.sweep, run.cell), _axis_params(axes), _axis_points(axes, start)
    return replace(parent, key=key, name=run_name(axes), params=params, points=points, parent=parent)


def _pending_sweep(sweep: str, start: int) -> Record:
    return Record(key=Key("sweep", sweep), name=sweep, status="SCHEDULED", start=start, end=start)


def _cell(folder: Path, body: Body) -> Record:
    key, axes = Key("run", body["sweep"], body["cell"]), body["axes"]
    record = _with_report(_pending_cell(key, axes, _milliseconds(body["started_at"])), body)
    points = (*record.points, *_axis_points(axes, record.end))
    files = {f"tuning-{path.name}": path.read_bytes() for path in sorted((folder / "tuning").glob("*.json"))}
    own = {"verdict": str(body["verdict"]), COLOUR: colour_of(str(body["verdict"])), **body.get("tags", {})}
    tags = {clean_name(name): str(text) for name, text in own.items()}
    return replace(record, tags={**tags, **record.tags}, points=points, artifacts=files)


def _sweep(folder: Path, body: Body) -> Record:
    record = _with_report(_pending_sweep(body["sweep"], _milliseconds(body["started_at"])), body)
    files = {Path(name).name: inside(folder, name).read_bytes() for name in body["artifacts"]}
    if body["metrics"].get("failed") and not body["metrics"].get("runs"):
        return replace(record, artifacts=files, status="FAILED")
    if not (comparison := body.get("comparison")):
        return replace(record, artifacts=files)
    tags = {"verdict": str(comparison["verdict"]), **record.tags}
    return replace(record, tags=tags, artifacts=files, views=saved_views(comparison))


def _with_report(record: Record, body: Body) -> Record:
    """The finished record: end, note and metrics of a CellReport or a SweepReport."""
    end = _milliseconds(body["finished_at"])
    metrics = {name: value for name, value in body["metrics"].items() if value is not None and math.isfinite(value)}
    points = tuple(MetricPoint(clean_name(name), float(value), end, 0) for name, value in metrics.items())
    command = mask(f"```\n{body['command']}\n```")
    if len(command) > MAX_TAG // 2:  # MLflow cuts a note, and half a command reproduces something else
        where = "the config.yaml of its runs" if record.key.level == "cell" else "the sweep's summary.json"
        command = f"The command has {len(body['command']):,} characters, too many for a note; see {where}."
    note = f"{mask(body['note'])[: MAX_TAG - len(command) - 2]}\n\n{command}"
    return replace(record, status="FINISHED", end=end, tags={"mlflow.note.content": note}, points=points)


def _axis_params(axes: Body) -> dict[str, str]:
    return {clean_name(name): axis_text(value) for name, value in axes.items()}


def _axis_points(axes: Body, when: int) -> tuple[MetricPoint, ...]:
    values = {name: axes[name] for name in NUMERIC_AXES if isinstance(axes.get(name), int | float)}
    return tuple(MetricPoint(name, float(value), when, 0) for name, value in values.items() if math.isfinite(value))


def _milliseconds(iso: str) -> int:
    return round(1000 * datetime.fromisoformat(iso).timestamp())


READERS = {"result.json": _finished_run, "failed.json": _failed_run, "cell.json": _cell, "summary.json": _sweep}
"""The file that identifies each kind of folder, in the order in which they are looked for, and its reader."""
