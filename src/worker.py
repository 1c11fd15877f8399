"""Joins a running sweep.   python -m src.worker sweep=NAME [n_workers=auto] [multirun=multirun] [search=ID]

Works on whatever the sweep has to do: the cells of its grid, then those of its searches (`search=`: of that one alone).
From any machine that shares the folder `multirun` and reaches the sweep's storage, with the code of the sweep's command.
Without `n_workers` this process is the one worker; n_workers=auto starts as many as the devices here allow. A password of
the storage is taken from PGPASSWORD (or ~/.pgpass). Ctrl-C once: finishes the current runs and leaves; twice: leaves now.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Literal

from src.cli import fail, settings
from src.errors import ConfigError
from src.sweep.folder import SweepFolder
from src.sweep.workers.worker import work


def main() -> None:
    """Works until nothing is left."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    known = {"sweep": None, "multirun": "multirun", "n_workers": None, "search": None}
    given = settings(known, usage=str(__doc__).split("   ")[1])
    if given["sweep"] is None:
        fail("sweep=: is missing; name the sweep to join, e.g. sweep=digits-mlp")
    folder = SweepFolder(Path(str(given["multirun"])), str(given["sweep"]))
    n_workers = given["n_workers"]
    if n_workers is not None and n_workers != "auto" and not (n_workers.isdigit() and int(n_workers) > 0):
        fail(f"n_workers={n_workers}: must be a number, or auto")
    try:
        if n_workers is not None:
            join(folder, "auto" if n_workers == "auto" else int(n_workers), given["search"])
            return
        n_cells = work(folder, given["search"])
    except ConfigError as error:
        fail(str(error))
    print(f"nothing left for this worker; it ended {n_cells} cells", file=sys.stderr)


def join(folder: SweepFolder, n_workers: int | Literal["auto"], search: str | None) -> None:
    """Keeps several workers at the sweep, or at one search of it, until nothing is left."""
    from src.sweep.workers.pool import Crew

    crew = Crew(folder, n_workers, search)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: crew.interrupt())
    crew.work()
    print("nothing left for these workers", file=sys.stderr)


if __name__ == "__main__":
    main()
