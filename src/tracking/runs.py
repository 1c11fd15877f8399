"""From a folder on disk to the record of its MLflow run: runs, cells and the sweep. Nothing here talks to a tracker.

A run folder holds result.json (or failed.json), history.parquet and config.yaml. Beside the runs of a cell lies
cell.json, and in the sweep's folder summary.json (see `reports`): every level of MLflow can be rebuilt from the folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from src.tracking.record import Input, Key, Point, Record, Status, clean_name, flatten, mask, number, sentence

NUMERIC_AXES = ("ratio", "imbalance", "epochs")
"""Axes that are metrics too: MLflow compares params as text, in which 10 comes before 5."""

NOT_OF_THE_RUN = frozenset(
    [
        "regimes",
        "seeds",
        "seed",
        "regime",
        "sweep",
        "multirun",
        "storage",
        "n_workers",
        "dry_run",
        "tracking",
        "search",
        "launcher",
        "study",
        "objective",
    ]
)
"""Top-level keys of config.yaml that do not become params: axes by another name, and where or how the run was done."""


def has_news(folder: Path) -> bool:
    """Whether a folder has anything to say yet."""
    return any((folder / name).exists() for name in ("result.json", "failed.json", "cell.json", "summary.json"))


def record_of(folder: Path) -> Record:
    """The record of a run's, a cell's or a sweep's folder.

    Raises FileNotFoundError when the folder has nothing to say yet, ValueError or KeyError when what it says is damaged.
    """
    if (folder / "result.json").exists():
        return _finished_run(folder, json.loads((folder / "result.json").read_text()))
    if (folder / "failed.json").exists():
        return _failed_run(folder, json.loads((folder / "failed.json").read_text()))
    if (folder / "cell.json").exists():
        return _cell(json.loads((folder / "cell.json").read_text()))
    if (folder / "summary.json").exists():
        return _sweep(folder, json.loads((folder / "summary.json").read_text()))
    raise FileNotFoundError(f"{folder} holds no result.json, failed.json, cell.json or summary.json")


# ------------------------------------------------------------------------------------------------ runs


def _finished_run(folder: Path, body: Mapping[str, Any]) -> Record:
    result, provenance = body["result"], body["provenance"]
    end = _milliseconds(provenance["finished_at"])
    start = end - max(1, round(1000 * provenance["seconds"]))
    last_step = int(result["cost"]["updates"])
    curves = _curves(folder / "history.parquet", start, end, last_step) + _stages(
        result["stages"], start, end, last_step
    )
    if "average_accuracy" in result["metrics"]:
        curves += _matrix(result, start, end, last_step)
    curve_names = {point.name for point in curves}

    cost = {**result["cost"], "seconds": provenance["seconds"], "reused_samples": provenance["reused_samples"]}
    named = dict(result["metrics"]) | {f"cost/{name}": value for name, value in cost.items()}
    named["realised_imbalance"] = result["imbalance"]
    undefined = sorted(name for name, value in named.items() if value is None)
    finals = [
        # A curve ends in a value of another kind (a batch's mean loss), so the figure of the whole set stands beside it.
        Point(f"{name}/final" if name in curve_names else name, value, end, last_step)
        for name, value in ((clean_name(name), value) for name, value in named.items())
        if value is not None
    ]
    finals += _axis_points(body["axes"], end)

    stages = result["stages"]
    tags = {"diverged": "true"} if body["status"] == "diverged" else {}
    if undefined:
        tags["undefined"] = ", ".join(undefined)
    if any(stage["converged"] is False for stage in stages):
        tags["converged"] = "false"
    tags["stopped_by"] = ", ".join(stage["stopped_by"] for stage in stages)
    tags |= {"weights": str(result["weights"]), "stream": str(result["stream"]), "engine": str(provenance["engine"])}
    record = _run(folder, body, tags, (*curves, *finals), "FINISHED", start, end)
    return replace(record, inputs=_inputs(body, record.params))


def _failed_run(folder: Path, body: Mapping[str, Any]) -> Record:
    provenance = body.get("provenance") or {}
    finished = provenance.get("finished_at")
    end = _milliseconds(finished) if finished else round(1000 * (folder / "failed.json").stat().st_mtime)
    start = end - max(1, round(1000 * provenance.get("seconds", 0)))
    error = mask(str(body["error"]))
    tags = {"error": error, "attempts": str(body["attempts"]), "mlflow.note.content": f"**Failed:** {error}"}
    record = _run(folder, body, tags, tuple(_axis_points(body["axes"], end)), "FAILED", start, end)
    traceback = mask(str(body["traceback"])).encode()
    return replace(record, artifacts={**record.artifacts, "traceback.txt": traceback})


def _run(
    folder: Path,
    body: Mapping[str, Any],
    tags: Mapping[str, str],
    points: tuple[Point, ...],
    status: Status,
    start: int,
    end: int,
) -> Record:
    import yaml

    key = Key("run", body["sweep"], body["cell"], body["run"])
    provenance = body.get("provenance") or {}
    common = {"regime": str(body["regime"])}
    if commit := provenance.get("git_commit"):
        common["mlflow.source.git.commit"] = str(commit)
    common |= {f"version.{name}": str(version) for name, version in (provenance.get("versions") or {}).items()}
    axes = _axis_params(body["axes"]) | {"seed": str(body["seed"]), "regime": str(body["regime"])}
    axes |= flatten({"knob": body["knobs"]}) if body.get("knobs") else {}
    config_file = folder / "config.yaml"
    text = config_file.read_text() if config_file.exists() else ""
    config = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    params = flatten({name: value for name, value in config.items() if name not in NOT_OF_THE_RUN}) | axes
    return Record(
        key=key,
        name=sentence(body["axes"], regime=body["regime"], seed=body["seed"]),
        status=status,
        start=start,
        end=end,
        tags={**common, **tags},
        params=params,
        points=points,
        artifacts={"config.yaml": mask(text).encode()} if text else {},
        parent=_cell_to_come(key, body["axes"], start),
    )


def _curves(path: Path, start: int, end: int, last_step: int) -> list[Point]:
    """history.parquet as points on the one step axis; a loss that is not finite is NaN, which MLflow can draw."""
    if not path.exists():
        return []
    from pyarrow import parquet

    table = parquet.read_table(path, columns=["step", "name", "value"]).to_pydict()
    span = end - 1 - start  # the last millisecond belongs to the final figures
    points: dict[tuple[str, int], Point] = {}
    for step, name, value in zip(table["step"], table["name"], table["value"], strict=True):
        when = start + span * step // max(1, last_step)
        kept = value if math.isfinite(value) else math.nan
        points[clean_name(name), step] = Point(clean_name(name), kept, min(when, end - 1), step)
    return list(points.values())


def _stages(stages: Sequence[Mapping[str, Any]], start: int, end: int, last_step: int) -> list[Point]:
    """The curve `stage`: the number of the stage, from 1, at its first and its last update."""
    points, done = [], 0
    for index, stage in enumerate(stages, start=1):
        first, last = done + 1, done + int(stage["updates"])
        for step in dict.fromkeys((min(first, last), last)):
            when = start + (end - 1 - start) * step // max(1, last_step)
            points.append(Point("stage", float(index), min(when, end - 1), step))
        done = last
    return points


def _matrix(result: Mapping[str, Any], start: int, end: int, last_step: int) -> list[Point]:
    """R[i, j] of a stream of more than two data sets: the curves ``R/d1``, ``R/d2``, ..., test accuracy after each stage."""
    points, done = [], 0
    for stage, row in zip(result["stages"], result["accuracy_matrix"], strict=False):  # a diverged run has no row
        done += int(stage["updates"])
        when = min(start + (end - 1 - start) * done // max(1, last_step), end - 1)
        for part, value in enumerate(row, start=1):
            if value is not None:
                points.append(Point(f"R/d{part}", float(value), when, done))
    return points


def _inputs(body: Mapping[str, Any], params: Mapping[str, str]) -> tuple[Input, ...]:
    """One data set for each part of the stream, with its size and class counts."""
    result, data = body["result"], str(body["axes"]["data"])
    recipe = {name: value for name, value in params.items() if name.startswith(("data.", "split."))}
    inputs = []
    for part, counts in enumerate(result["class_counts"], start=1):
        digest = hashlib.sha256(f"{result['stream']}/d{part}".encode()).hexdigest()[:16]
        inputs.append(
            Input(
                name=f"{data}-d{part}",
                digest=digest,
                source=json.dumps({**recipe, "seed": body["seed"], "part": f"d{part}"}),
                schema=json.dumps({"n_classes": len(counts)}),
                profile=json.dumps({"num_rows": sum(counts), "class_counts": counts}),
                context=f"d{part}",
            )
        )
    return tuple(inputs)


# ------------------------------------------------------------------------------------------------ cells and sweeps


def _cell_to_come(key: Key, axes: Mapping[str, Any], start: int) -> Record:
    """The cell of a run whose verdict is not known yet."""
    return Record(
        key=Key("cell", key.sweep, key.cell),
        name=sentence(axes),
        status="SCHEDULED",
        start=start,
        end=start,
        params=_axis_params(axes),
        points=tuple(_axis_points(axes, start)),
        parent=_sweep_to_come(key.sweep, start),
    )


def _sweep_to_come(sweep: str, start: int) -> Record:
    return Record(key=Key("sweep", sweep), name=sweep, status="SCHEDULED", start=start, end=start)


def _cell(body: Mapping[str, Any]) -> Record:
    start, end = _milliseconds(body["started_at"]), _milliseconds(body["finished_at"])
    points = [
        Point(clean_name(name), float(value), end, 0)
        for name, value in body["metrics"].items()
        if value is not None and math.isfinite(value)
    ]
    note = f"{body['note']}\n\n```\n{body['command']}\n```"
    return Record(
        key=Key("cell", body["sweep"], body["cell"]),
        name=sentence(body["axes"]),
        status="FINISHED",
        start=start,
        end=end,
        tags={"verdict": str(body["verdict"]), "mlflow.note.content": mask(note)},
        params=_axis_params(body["axes"]),
        points=(*points, *_axis_points(body["axes"], end)),
        parent=_sweep_to_come(body["sweep"], start),
    )


def _sweep(folder: Path, body: Mapping[str, Any]) -> Record:
    start, end = _milliseconds(body["started_at"]), _milliseconds(body["finished_at"])
    note = f"{body['note']}\n\n```\n{body['command']}\n```"
    return Record(
        key=Key("sweep", body["sweep"]),
        name=body["sweep"],
        status="FINISHED",
        start=start,
        end=end,
        tags={"mlflow.note.content": mask(note)},
        points=tuple(
            Point(clean_name(name), float(value), end, 0)
            for name, value in body["metrics"].items()
            if value is not None and math.isfinite(value)
        ),
        artifacts={Path(name).name: (folder / name).read_bytes() for name in body["artifacts"]},
    )


def _axis_params(axes: Mapping[str, Any]) -> dict[str, str]:
    return {name: number(value) if isinstance(value, float) else str(value) for name, value in axes.items()}


def _axis_points(axes: Mapping[str, Any], when: int) -> list[Point]:
    numbers = {name: axes[name] for name in NUMERIC_AXES if isinstance(axes[name], int | float)}
    return [Point(name, float(value), when, 0) for name, value in numbers.items() if math.isfinite(value)]


def _milliseconds(iso: str) -> int:
    return round(1000 * datetime.fromisoformat(iso).timestamp())
