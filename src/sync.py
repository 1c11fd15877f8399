"""Writes to MLflow what it lacks: delivers the outboxes, then writes every run, cell and sweep that is only on disk."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from src.cli import command
from src.config import TrackingConfig, compose
from src.errors import ConfigError
from src.progress import tracked
from src.tracking.connect import open_tracker, tracking_uri
from src.tracking.outbox import Outbox
from src.tracking.record import Record, mask
from src.tracking.runs import DAMAGED, has_record, record_of
from src.tracking.tracker import RecordRefused, Tracker, TrackerUnavailable

USAGE = """python -m src.sync [sweep=NAME] [tracking=server tracking.uri=...]

Writes to MLflow every result on disk that it lacks: of one sweep, or of all. Changes no result; the same command again
writes nothing. Exit status 1 if something is still missing in MLflow.
"""

BATCH = 2_000
"""Records in one look-up: MLflow has no index of tags by value, so each reads the tags of all runs."""


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 MLflow is complete, 1 something is missing."""
    config = compose(arguments)
    multirun = Path(config.multirun)
    one_sweep = any(argument.startswith("sweep=") for argument in arguments)
    report = sync(multirun, config.tracking, sweep=config.sweep if one_sweep else None)
    print(
        f"{report.n_sweeps} sweeps, {report.n_delivered} entries delivered, {report.n_written} of {report.n_records} "
        f"records were missing and are written: {mask(tracking_uri(config.tracking, multirun) or '')}"
    )
    for source, reason in report.problems:
        print(f"not in MLflow: {source}: {reason}", file=sys.stderr)
    if report.error is not None:
        print(f"MLflow does not answer: {report.error}; start it (make server) and sync again", file=sys.stderr)
    return 1 if report.error is not None or report.problems else 0


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

    Raises ConfigError if tracking is off, or if the folder or the sweep does not exist.
    """
    if not multirun.is_dir():
        raise ConfigError("multirun", str(multirun), "there is no such folder; give the one that holds the sweeps")
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
            with closing(tracker):
                delivery = Outbox(folder).deliver(tracker, wait_s=60)
                report.n_delivered += delivery.n_delivered
                report.problems += delivery.refused
                if delivery.error is not None:
                    raise TrackerUnavailable(delivery.error)
                records = _records(folder, report.problems)
                while batch := list(itertools.islice(records, BATCH)):
                    report.n_records += len(batch)
                    report.n_written += _write(tracker, batch, report.problems)
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
    """Writes what MLflow lacks of the batch, and returns how many; what it refuses is added to `problems`."""
    while batch:
        try:
            return tracker.write(batch)
        except RecordRefused as refused:
            problems.append((refused.key.id, str(refused)))
            batch = [record for record in batch if record.key != refused.key]
    return 0


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]), USAGE)
