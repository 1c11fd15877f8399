"""MLflow's tables on a PostgreSQL without a server: the runs are those of SQLite, each once; the queue may live there as well."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from src.config import TrackingConfig
from src.sweep.folder import SweepFolder
from src.sweep.processes import Process
from src.sweep.queue.queue import WorkQueue
from src.sync import sync
from src.tracking.connect import tracking_uri
from tests.tracking.folders import cell_report, run_folder, sweep_report
from tests.tracking.reading import by_key, content

pytestmark = pytest.mark.server


def test_a_database_shared_with_the_queue_has_the_same_runs(
    postgres: str, multirun: Path, local: TrackingConfig
) -> None:
    sweep_dir = multirun / "digits-mlp"
    for seed in (0, 1):
        run_folder(sweep_dir, seed=seed)
    run_folder(sweep_dir, cell="bad", status="failed")
    cell_report(sweep_dir)
    sweep_report(sweep_dir)
    direct = dataclasses.replace(local, uri=postgres)
    folder = SweepFolder(multirun, "digits-mlp")
    for _ in range(2):  # each finds the tables of the other
        assert sync(multirun, direct).problems == []
        with Process(folder, "sweep") as process:
            folder.write_queue(postgres)
            WorkQueue(folder, process).close()
    assert sync(multirun, direct).n_written == 0, "nothing twice"
    assert sync(multirun, local).problems == []
    uris = [tracking_uri(tracking, multirun) for tracking in (direct, local)]
    on_postgres, on_sqlite = (
        {key: content(uri, run) for key, run in by_key(uri).items()} for uri in uris if uri is not None
    )
    assert len(on_sqlite) >= 3
    assert on_postgres == on_sqlite
