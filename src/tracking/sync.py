"""Make MLflow say what lies on disk: empty the outboxes, then write every run, cell and sweep that it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src.config import TrackingConfig
from src.errors import ConfigError
from src.tracking.mirror import Mirror, RecordRefused, TrackerUnavailable, open_mirror
from src.tracking.outbox import BATCH, Outbox
from src.tracking.record import Record
from src.tracking.runs import record_of


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncReport:
    """`n_records` on disk, of which `n_written` were missing in MLflow; `problems`: (folder or entry, reason)."""

    n_sweeps: int
    n_delivered: int
    n_records: int
    n_written: int
    problems: tuple[tuple[str, str], ...] = ()
    error: str | None = None
    """Why it stopped early: the tracker does not answer."""


def sync(multirun: Path, tracking: TrackingConfig, *, sweep: str | None = None) -> SyncReport:
    """Deliver all outboxes of `multirun` (or of one sweep) and rebuild what MLflow lacks; twice is the same as once.

    Raises ConfigError when tracking is off or the sweep is not there.
    """
    sweeps = _sweeps(multirun)
    if sweep is not None:
        sweeps = [folder for folder in sweeps if folder.name == sweep]
        if not sweeps:
            raise ConfigError("sweep", sweep, f"no such sweep in {multirun}; see `ls {multirun}`")
    n_delivered = n_records = n_written = 0
    problems: list[tuple[str, str]] = []
    error: str | None = None
    try:
        mirror = open_mirror(tracking, multirun)
        if mirror is None:
            raise ConfigError(
                "tracking", "off", "there is no MLflow to write to; say tracking=local or tracking=server"
            )
        for folder in sweeps:
            delivery = Outbox(folder).deliver(mirror, wait_s=60)
            n_delivered += delivery.n_delivered
            problems += delivery.refused
            if delivery.error is not None:
                raise TrackerUnavailable(delivery.error)
            for batch in _batches(folder, problems):
                n_records += len(batch)
                n_written += _write(mirror, batch, problems)
        mirror.close()
    except TrackerUnavailable as unavailable:
        error = str(unavailable)
    return SyncReport(
        n_sweeps=len(sweeps),
        n_delivered=n_delivered,
        n_records=n_records,
        n_written=n_written,
        problems=tuple(problems),
        error=error,
    )


def _sweeps(multirun: Path) -> list[Path]:
    if not multirun.is_dir():
        return []
    return sorted(path for path in multirun.iterdir() if (path / "cells").is_dir())


def _batches(sweep_dir: Path, problems: list[tuple[str, str]]) -> Iterator[list[Record]]:
    """Everything a sweep's folder says, parents first, a batch at a time; what cannot be read is noted."""
    cells = sorted(path for path in (sweep_dir / "cells").iterdir() if path.is_dir())
    folders = [sweep_dir] if (sweep_dir / "summary.json").exists() else []
    for cell in cells:
        folders += [cell] if (cell / "cell.json").exists() else []
        folders += sorted(
            path for path in cell.iterdir() if (path / "result.json").exists() or (path / "failed.json").exists()
        )
    batch: list[Record] = []
    for folder in folders:
        try:
            batch.append(record_of(folder))
        except (ValueError, KeyError, TypeError, OSError) as error:
            problems.append((str(folder.relative_to(sweep_dir.parent)), f"{type(error).__name__}: {error}"))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _write(mirror: Mirror, batch: list[Record], problems: list[tuple[str, str]]) -> int:
    try:
        return mirror.write(batch)
    except RecordRefused as refused:
        problems.append((refused.key.run or refused.key.cell or refused.key.sweep, str(refused)))
        rest = [record for record in batch if record.key != refused.key]
        return _write(mirror, rest, problems) if rest else 0
