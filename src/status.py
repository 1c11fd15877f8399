"""Shows the status of a sweep."""

from __future__ import annotations

from pathlib import Path

from src.cli import command, fail, settings
from src.errors import ConfigError
from src.sweep.folder import SweepFolder

USAGE = "python -m src.status [sweep=NAME] [multirun=multirun]"


def main() -> None:
    """Prints the status of a sweep, or of all sweeps."""
    given = settings({"sweep": None, "multirun": "multirun"}, usage=USAGE)
    from src.sweep.status import status_lines  # takes seconds

    multirun = Path(str(given["multirun"]))
    found = sorted(path.parent.name for path in multirun.glob("*/queue.json"))
    names = [str(given["sweep"])] if given["sweep"] is not None else found
    if not names:
        fail(f"multirun={multirun}: holds no sweep; start one with python -m src.sweep")
    try:
        for name in names:
            print("\n".join(status_lines(SweepFolder(multirun, name))))
    except ConfigError as error:
        fail(str(error))


if __name__ == "__main__":
    command(main)
