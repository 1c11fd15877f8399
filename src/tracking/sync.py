"""Rebuilds MLflow from disk: delivers the outboxes, then writes every run, cell and sweep that MLflow lacks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from src.config import TrackingConfig
from src.errors import ConfigError
from src.progress import tracked
from src.tracking.connect import open_tracker
from src.tracking.outbox import Outbox
from src.tracking.record import Record
from src.tracking.runs import DAMAGED, has_record, record_of
from src.tracking.tracker import RecordRefused, Tracker, TrackerUnavailable

BATCH = 2_000
"""Records in one look-up: MLflow has no index of tags by value, so each reads the tags of all runs."""


@dataclass(kw_only=True, slots=True)
class SyncReport:
    """Outcome of one sync. `n_written` of the `n_records` on disk were missing in MLflow."""

    n_sweeps: int
    n_delivered: int = 0
    n_records: int = 0
    n_written: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(folder or entry, reason)"""
    error: str | None = None
    """Why it stopped early: MLflow does not answer."""


def sync(multirun: Path, tracking: TrackingConfig, *, sweep: str | None = None) -> SyncReport:
    """Delivers all outboxes of `multirun` (or of one sweep) and writes what MLflow lacks; idempotent.

    Raises ConfigError if tracking is off or the sweep does not exist.
    """
    sweeps = sorted(path.parent for path in multirun.glob(f"{sweep or '*'}/cells") if path.is_dir())
    if sweep is not None and not sweeps:
        raise ConfigError("sweep", sweep, f"no such sweep in {multirun}; see `ls {multirun}`")
    if tracking.name == "off":
        raise ConfigError("tracking", "off", "there is no MLflow to write to; set tracking=local or tracking=server")
    report = SyncReport(n_sweeps=len(sweeps))
    try:
        for folder in sweeps:
            tracker = open_tracker(tracking.of_sweep(folder.name), multirun)
            assert tracker is not None
            delivery = Outbox(folder).deliver(tracker, wait_s=60)
            report.n_delivered += delivery.n_delivered
            report.problems += delivery.refused
            if delivery.error is not None:
                raise TrackerUnavailable(delivery.error)
            records = _records(folder, report.problems)
            while batch := list(itertools.islice(records, BATCH)):
                report.n_records += len(batch)
                report.n_written += _write(tracker, batch, report.problems)
            tracker.close()
    except TrackerUnavailable as unavailable:
        report.error = str(unavailable)
    return report


def _records(sweep_dir: Path, problems: list[tuple[str, str]]) -> Iterator[Record]:
    """The records of a sweep's folder, parents first; unreadable folders are added to `problems`."""
    folders = [sweep_dir]
    for cell in sorted((sweep_dir / "cells").glob("*/")):
        folders += [cell, *sorted(cell.glob("*/"))]
    for folder in filter(has_record, tracked(folders, f"read: {sweep_dir.name}", len(folders))):
        try:
            yield record_of(folder)
        except DAMAGED as error:
            problems.append((str(folder.relative_to(sweep_dir.parent)), f"{type(error).__name__}: {error}"))


def _write(tracker: Tracker, batch: list[Record], problems: list[tuple[str, str]]) -> int:
    try:
        return tracker.write(batch)
    except RecordRefused as refused:
        problems.append((refused.key.id, str(refused)))
        rest = [record for record in batch if record.key != refused.key]
        return _write(tracker, rest, problems) if rest else 0
