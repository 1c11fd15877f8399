"""Make MLflow say what lies on disk.   python -m src.sync [sweep=NAME] [tracking=server tracking.uri=...]   (make sync)"""

from __future__ import annotations

import sys
from pathlib import Path

from src.config import compose
from src.errors import ConfigError
from src.tracking.connect import tracking_uri
from src.tracking.record import mask
from src.tracking.sync import sync


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 all is in MLflow, 1 something is not, 2 a mistake in the command."""
    try:
        config = compose(arguments)
        multirun = Path(config.multirun)
        named = any(argument.startswith("sweep=") for argument in arguments)
        report = sync(multirun, config.tracking, sweep=config.sweep if named else None)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    where = mask(tracking_uri(config.tracking, multirun) or "")
    print(
        f"{report.n_sweeps} sweeps, {report.n_delivered} entries delivered, "
        f"{report.n_written} of {report.n_records} records were missing and are written: {where}"
    )
    for what, reason in report.problems:
        print(f"not mirrored: {what}: {reason}", file=sys.stderr)
    if report.error is not None:
        print(f"MLflow does not answer: {report.error}; start it (make server) and sync again", file=sys.stderr)
    return 1 if report.error is not None or report.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
