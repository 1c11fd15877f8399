"""What a cell and a sweep have to say when their runs are compared, as files beside the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from src.io import write_atomically
from src.tracking.outbox import Outbox


@dataclass(frozen=True, kw_only=True, slots=True)
class CellReport:
    """What a cell's comparison says. `metrics`: ``delta/{a}-{b}/{test}/accuracy``, ``.../ci_low``, ... ; None is left out.

    `verdict`: a few words (``combined``, ``no difference``, ``inconclusive``); `note`: the verdict as a sentence;
    `command` reproduces the cell.
    """

    sweep: str
    cell: str
    axes: Mapping[str, str | float | int]
    verdict: str
    note: str
    command: str
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReport:
    """The end of a sweep's command: a note in words, counts, and files (relative to the sweep's folder) to attach."""

    sweep: str
    note: str
    command: str
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    artifacts: Sequence[str] = ()


def write_cell(cell_dir: Path, report: CellReport, outbox: Outbox | None = None) -> Path:
    """Write cell.json atomically; if it says something new, `outbox` tells it."""
    return _write_report(cell_dir / "cell.json", asdict(report), sorted(cell_dir.glob("*/result.json")), outbox)


def write_sweep(sweep_dir: Path, report: SweepReport, outbox: Outbox | None = None) -> Path:
    """Write summary.json atomically; if it says something new, `outbox` tells it."""
    cells = sorted(sweep_dir.glob("cells/*/cell.json"))
    return _write_report(sweep_dir / "summary.json", asdict(report), cells, outbox)


def _write_report(path: Path, body: dict[str, Any], parts: Sequence[Path], outbox: Outbox | None) -> Path:
    # The same report said again keeps its times, so that a rerun changes neither the file nor MLflow.
    if path.exists():
        old = json.loads(path.read_text())
        if {key: old.get(key) for key in body} == json.loads(json.dumps(body)):
            return path
    now = datetime.now(UTC)
    started = min([now, *(_started(json.loads(part.read_text())) for part in parts)])
    times = {"started_at": started.isoformat(), "finished_at": now.isoformat()}
    with outbox.telling(path.parent) if outbox is not None else nullcontext():
        write_atomically(path, json.dumps({"schema": 1, **body, **times}, indent=1))
    return path


def _started(part: Mapping[str, Any]) -> datetime:
    """When a run or a cell began, by its result.json or cell.json."""
    if "started_at" in part:
        return datetime.fromisoformat(part["started_at"])
    provenance = part["provenance"]
    return datetime.fromisoformat(provenance["finished_at"]) - timedelta(seconds=provenance["seconds"])
