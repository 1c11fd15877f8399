"""The reports on a cell and on a sweep: cell.json and summary.json, from which their MLflow runs are made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from src.io import read_json_or, write_atomically
from src.tracking.outbox import Outbox


@dataclass(frozen=True, kw_only=True, slots=True)
class CellReport:
    """Result of a cell's comparison.

    `metrics`: ``delta/{a}-{b}/{test}/accuracy``, ``.../ci_low``, ...; None is omitted. `verdict`: ``combined``,
    ``undecided``, ...; `note`: the verdict as a sentence; `command` reproduces the cell. `tags`: differences and means
    as text, for the columns of MLflow's table.
    """

    sweep: str
    cell: str
    axes: Mapping[str, str | float | int]
    verdict: str
    note: str
    command: str
    metrics: Mapping[str, float | None]
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepComparison:
    """What a sweep's saved views in MLflow show. Names of regimes are as they are in metrics."""

    verdict: str
    """The number of cells that each regime wins."""
    pairs: Sequence[tuple[str, str]]
    metric: str
    """As in ``delta/{a}-{b}/{metric}``: ``union/accuracy``."""
    higher_is_better: bool
    axes: Sequence[str]
    """Those in which the cells differ."""
    largest: tuple[str, str]
    """Hash and name of the cell with the largest difference, whose curves are worth a look."""
    elsewhere: Sequence[str] = ()
    """The other test sets on which the regimes are compared: ``d1``, ``d2``, ``balanced``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReport:
    """Result of a sweep's command. `metrics`: counts, means; `artifacts`: files to attach, in the sweep's folder."""

    sweep: str
    note: str
    command: str
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    artifacts: Sequence[str] = ()
    comparison: SweepComparison | None = None


def write_cell(cell_dir: Path, report: CellReport, outbox: Outbox | None = None) -> Path:
    """Write cell.json atomically and enqueue it in `outbox`, unless it is unchanged."""
    return _write_report(cell_dir / "cell.json", asdict(report), cell_dir.glob("*/result.json"), outbox)


def write_sweep(sweep_dir: Path, report: SweepReport, outbox: Outbox | None = None) -> Path:
    """Write summary.json atomically and enqueue it in `outbox`, unless it is unchanged."""
    return _write_report(sweep_dir / "summary.json", asdict(report), sweep_dir.glob("cells/*/cell.json"), outbox)


def _write_report(path: Path, body: dict[str, Any], parts: Iterable[Path], outbox: Outbox | None) -> Path:
    # An unchanged report keeps its times, so that a rerun changes neither the file nor MLflow.
    old = read_json_or(path)
    if {key: old.get(key) for key in body} == json.loads(json.dumps(body)):
        return path
    now = datetime.now(UTC)
    started = min([now, *(_started(content) for part in parts if (content := read_json_or(part)))])
    times = {"started_at": started.isoformat(), "finished_at": now.isoformat()}
    with outbox.transaction(path.parent, named=False) if outbox is not None else nullcontext():
        write_atomically(path, json.dumps({"schema": 1, **body, **times}, indent=1), named=False)
    return path


def _started(part: Mapping[str, Any]) -> datetime:
    """The start of a run or a cell from its result.json or cell.json."""
    if "started_at" in part:
        return datetime.fromisoformat(part["started_at"])
    provenance = part["provenance"]
    return datetime.fromisoformat(provenance["finished_at"]) - timedelta(seconds=provenance.get("seconds", 0))
