"""Shows the status of a sweep."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from src.cli import command, fail, settings
from src.sweep.folder import SweepFolder

USAGE = """python -m src.status [sweep=NAME] [multirun=multirun] [watch=true] [stop=CELL|first=CELL]

watch=true shows the status again every two seconds until nothing runs or waits. stop=CELL ends a cell of the grid
that runs or waits, and the sweep's command tries it again; first=CELL is the next that a worker takes. CELL: the
first letters of its hash, as dry_run=true lists them."""
WATCH_SECONDS = 2.0
ACTIVE = re.compile(r": \d+ of \d+ \w+ done,.* [1-9]\d* (running|waiting|left)")


def main() -> None:
    """Prints the status of a sweep, or of all sweeps."""
    keys = {"sweep": None, "multirun": "multirun", "watch": "false", "stop": None, "first": None}
    given = settings(keys, sys.argv[1:])
    from src.sweep.status import run_next, stop_cell  # takes seconds

    multirun = Path(str(given["multirun"]))
    found = sorted(path.parent.name for path in multirun.glob("*/queue.json"))
    names = [str(given["sweep"])] if given["sweep"] is not None else found
    if not names:
        fail(f"multirun={multirun}: holds no sweep; start one with python -m src.sweep")
    for key, steer in (("stop", stop_cell), ("first", run_next)):
        if (cell := given[key]) is not None:
            if given["sweep"] is None:
                fail(f"{key}={cell}: name the sweep, e.g. sweep={names[0]}")
            print(steer(SweepFolder(multirun, names[0]), cell))
            return
    while True:
        lines = [line for name in names for line in _lines(multirun, name, is_one=given["sweep"] is not None)]
        is_over = not any(ACTIVE.search(line) for line in lines)
        clear = "\x1b[H\x1b[2J" if given["watch"] == "true" and sys.stdout.isatty() else ""
        print(f"{clear}{chr(10).join(lines)}", flush=True)
        if given["watch"] == "false" or is_over:
            return
        time.sleep(WATCH_SECONDS)


def _lines(multirun: Path, name: str, *, is_one: bool) -> list[str]:
    """The status of one sweep. Among others, a sweep whose status cannot be read is one line that says why."""
    from src.errors import ConfigError
    from src.sweep.status import status_lines

    try:
        return status_lines(SweepFolder(multirun, name))
    except ConfigError as error:
        if is_one:
            raise
        return [f"{name}: its status cannot be read: {error}"]


if __name__ == "__main__":
    command(main, USAGE)
