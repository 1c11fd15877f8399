"""Joins a running sweep."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from src.cli import command, fail, settings
from src.sweep.engine import DEFAULT_ENGINE
from src.sweep.folder import SweepFolder

USAGE = """python -m src.worker sweep=NAME [n_workers=auto] [multirun=multirun] [search=ID] [plugins=[FILE.py]]

Works on all open cells of the sweep: those of its grid, then those of its searches (`search=`: only that one). Runs
on any machine that shares the folder `multirun`, reaches the sweep's storage, and has the commit of the sweep's
command. Without `n_workers` this process is the only worker; n_workers=auto starts as many as the devices here allow.
The storage's password comes from PGPASSWORD or ~/.pgpass. A plugin of the sweep outside this checkout runs only if
`plugins` or SWEEP_PLUGINS names it. Ctrl-C once: saves its progress and exits;
twice: exits now."""


def main() -> None:
    """Works until nothing is left."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    known = {
        "sweep": None,
        "multirun": "multirun",
        "n_workers": None,
        "search": None,
        "plugins": None,
        "engine": DEFAULT_ENGINE,
    }
    known["parent"] = None  # set by the command that starts a worker
    given = settings(known, sys.argv[1:])
    if given["sweep"] is None:
        fail("sweep=: is missing; name the sweep to join, e.g. sweep=digits-mlp")
    from src.sweep.workers.worker import work  # loads Optuna

    folder = SweepFolder(Path(str(given["multirun"])), str(given["sweep"]))
    n_workers, search, engine, parent = given["n_workers"], given["search"], str(given["engine"]), given["parent"]
    if n_workers is not None and n_workers != "auto" and not (n_workers.isdigit() and int(n_workers) > 0):
        fail(f"n_workers={n_workers}: must be a number, or auto")
    if n_workers is None:
        n_cells = work(folder, search, engine, None if parent is None else int(parent))
        print(f"nothing left for this worker; it ended {n_cells} cell{'s' * (n_cells != 1)}", file=sys.stderr)
        return
    from src.sweep.workers.pool import WorkerPool

    pool = WorkerPool(folder, "auto" if n_workers == "auto" else int(n_workers), search, engine)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: pool.interrupt())
    pool.work()
    print("nothing left for these workers", file=sys.stderr)


if __name__ == "__main__":
    command(main, USAGE)
