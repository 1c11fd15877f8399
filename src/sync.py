"""Write to MLflow what it lacks."""

from __future__ import annotations

import sys
from pathlib import Path

from src.cli import command
from src.config import compose
from src.tracking.connect import tracking_uri
from src.tracking.record import mask
from src.tracking.sync import sync

USAGE = """python -m src.sync [sweep=NAME] [tracking=server tracking.uri=...]

Writes to MLflow every result on disk that it lacks: of one sweep, or of all. Changes no result; the same command again
writes nothing. Exit status 1 if something is still missing in MLflow.
"""


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


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]), USAGE)
