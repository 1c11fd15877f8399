"""What a cell and a sweep have to say when their runs are compared, as files beside the runs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


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


def write_cell(cell_dir: Path, report: CellReport) -> Path:
    """Write cell.json atomically; deliver it by putting `cell_dir` into the outbox."""
    return _write_report(cell_dir / "cell.json", asdict(report))


def write_sweep(sweep_dir: Path, report: SweepReport) -> Path:
    """Write sweep.json atomically; deliver it by putting `sweep_dir` into the outbox."""
    return _write_report(sweep_dir / "sweep.json", asdict(report))


def _write_report(path: Path, body: dict[str, Any]) -> Path:
    # The same report said again keeps its time, so that a rerun changes neither the file nor MLflow.
    if path.exists():
        old = json.loads(path.read_text())
        if {key: value for key, value in old.items() if key not in ("schema", "finished_at")} == _plain(body):
            return path
    write_text(path, json.dumps({"schema": 1, **body, "finished_at": datetime.now(UTC).isoformat()}, indent=1))
    return path


def _plain(body: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(body))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: a temporary beside it, flushed to the disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
