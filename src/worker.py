"""Joins a running sweep.   python -m src.worker sweep=NAME [multirun=multirun]

From any machine that shares the folder `multirun` and reaches the sweep's storage. A password of the storage is taken
from PGPASSWORD (or ~/.pgpass). Ctrl-C once: finishes the current run and leaves; twice: leaves now.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from src.config import ConfigError
from src.entry import fail, settings
from src.sweeping.folder import SweepFolder
from src.sweeping.worker import work


def main() -> None:
    """Works until nothing is left."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    given = settings({"sweep": None, "multirun": "multirun"}, usage=str(__doc__).split("   ")[1])
    if given["sweep"] is None:
        fail("sweep=: is missing; name the sweep to join, e.g. sweep=digits-mlp")
    try:
        n_cells = work(SweepFolder(Path(str(given["multirun"])), str(given["sweep"])))
    except ConfigError as error:
        fail(str(error))
    print(f"nothing left for this worker; it ended {n_cells} cells", file=sys.stderr)


if __name__ == "__main__":
    main()
